"""PEFT's side of bench/train.ts: for each line on stdin does as many steps as it says and prints the seconds; at the end of
stdin prints what it trained and its peak of memory. Arguments: base, mode (lora, full), rows, tokens, r, threads."""
import json
import re
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

base, mode, *numbers = sys.argv[1:]
rows, tokens, r, threads = map(int, numbers)
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
if mode == "lora":
    model = get_peft_model(model, LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()
weights = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0)
vocabulary = model.config.vocab_size
ids = torch.tensor([[3 + (row * 7919 + at * 104729) % (vocabulary - 3) for at in range(tokens + 1)] for row in range(rows)])


def step() -> None:
    loss = model(input_ids=ids[:, :-1], labels=ids[:, :-1], use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


step()
print("ready", flush=True)
for line in sys.stdin:
    started = time.perf_counter()
    for _ in range(int(line)):
        step()
    print(time.perf_counter() - started, flush=True)
peak = int(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"trainable": sum(p.numel() for p in weights), "peakBytes": peak}))
