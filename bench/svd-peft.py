"""PEFT's side of bench/svd.ts: for each line on stdin combines the adapters by svd and prints the seconds it took; at the
end of stdin compares both results with the dense sum in fp64. Arguments: folder, modules, adapters, size, r, alpha, rank."""
import json
import sys
import time

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file

folder, *numbers = sys.argv[1:]
modules, adapters, size, r, alpha, rank = map(int, numbers)
names, weights = [f"a{i}" for i in range(adapters)], [0.5 + 0.25 * i for i in range(adapters)]
factors = load_file(f"{folder}/adapters.safetensors")

model = torch.nn.ModuleDict({f"m{i}": torch.nn.Linear(size, size, bias=False) for i in range(modules)})
config = LoraConfig(r=r, lora_alpha=alpha, target_modules=list(model.keys()))
model = get_peft_model(model, config, adapter_name=names[0])
for name in names[1:]:
    model.add_adapter(name, config)
for module in range(modules):
    layer = model.base_model.model[f"m{module}"]
    for name in names:
        layer.lora_A[name].weight.data = torch.from_numpy(factors[f"{name}.m{module}.A"])
        layer.lora_B[name].weight.data = torch.from_numpy(factors[f"{name}.m{module}.B"])
print("ready", flush=True)

for run, _ in enumerate(sys.stdin):
    started = time.perf_counter()
    model.add_weighted_adapter(names, weights, f"combined{run}", "svd", svd_rank=rank)
    print(time.perf_counter() - started, flush=True)

ours, errors = load_file(f"{folder}/ours.safetensors"), {"ours": 0.0, "peft": 0.0}
for module in range(modules):
    D = sum(weight * alpha / r * factors[f"{name}.m{module}.B"].astype(np.float64) @ factors[f"{name}.m{module}.A"]
            for name, weight in zip(names, weights))
    layer = model.base_model.model[f"m{module}"]
    A, B = (getattr(layer, f"lora_{factor}")["combined0"].weight.detach().double().numpy() for factor in "AB")
    errors["peft"] += np.linalg.norm(D - B @ A) ** 2
    errors["ours"] += np.linalg.norm(D - ours[f"m{module}.B"].astype(np.float64) @ ours[f"m{module}.A"]) ** 2
print(json.dumps({name: error**0.5 for name, error in errors.items()}))
