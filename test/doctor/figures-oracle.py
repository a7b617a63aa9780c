# What numpy says of the adapters of rank-task.py: full SVDs of dense matrices in float64, where the doctor has factors.
# Writes oracle/numpy.json. Versions: requirements.txt.
import json, pathlib
import numpy as np, torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
ORACLE, BASE = HERE / "oracle", HERE / "../parity/oracle/tiny/base"
SPECTRA = ["decaying-1/r4", "decaying-1/r16", "decaying-2/r8", "flat/r2", "tailed/r16"]
PAIRS = [("decaying-1/r8", "flat/r4"), ("decaying-1/r8", "decaying-1/r16"), ("decaying-2/r4", "tailed/r2")]
K = 6
COSINE = 0.5


def deltas(folder):
    config = json.loads((ORACLE / folder / "adapter_config.json").read_text())
    tensors = load_file(ORACLE / folder / "adapter_model.safetensors")
    s = config["lora_alpha"] / config["r"]
    found = {}
    for key, A in tensors.items():
        if not key.endswith("lora_A.weight"):
            continue
        B = tensors[key.replace("lora_A", "lora_B")]
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        found[module] = s * B.double().numpy() @ A.double().numpy()
    return config["r"], found


def spectrum(D, r):
    s = np.linalg.svd(D, compute_uv=False)[:r]
    e, p = s**2 / np.sum(s**2), s / np.sum(s)
    kept = np.cumsum(e)
    return {"values": s.tolist(), "stableRank": np.sum(s**2) / s[0] ** 2, "effectiveRank": float(np.exp(-np.sum(p * np.log(p)))),
            "energyAt": kept.tolist(), "k90": int(np.argmax(kept >= 0.9)) + 1, "k99": int(np.argmax(kept >= 0.99)) + 1,
            "tail": float(r * s[-1] ** 2 / np.sum(s**2))}


def intruders(W, D, r):
    U0 = np.linalg.svd(W)[0]
    U, s, _ = np.linalg.svd(W + D)
    cosines = np.abs(U0[:, : K + r].T @ U[:, :K]).max(axis=0)
    return {"values": s[:K].tolist(), "cosines": cosines.tolist(), "count": int(np.sum(cosines < COSINE)), "relativeNorm": float(np.linalg.norm(D) / np.linalg.norm(W))}


def overlap(D1, r1, D2, r2):
    (U1, _, V1), (U2, _, V2) = np.linalg.svd(D1), np.linalg.svd(D2)
    write = np.linalg.svd(U1[:, :r1].T @ U2[:, :r2], compute_uv=False)
    read = np.linalg.svd(V1[:r1] @ V2[:r2].T, compute_uv=False)
    both = (D1 != 0) & (D2 != 0)
    return {"writeCosines": write.tolist(), "readCosines": read.tolist(), "writeOverlap": float(np.mean(write**2)), "readOverlap": float(np.mean(read**2)),
            "deltaCosine": float(np.sum(D1 * D2) / np.linalg.norm(D1) / np.linalg.norm(D2)),
            "signConflict": float(np.mean(np.sign(D1[both]) != np.sign(D2[both]))),
            "cancelled": float(1 - np.abs(D1 + D2).sum() / (np.abs(D1).sum() + np.abs(D2).sum()))}


def truncated(D, k):
    U, s, V = np.linalg.svd(D)
    return float(np.linalg.norm(D - (U[:, :k] * s[:k]) @ V[:k]))


def losses(folder, data):
    ids = torch.tensor([json.loads(line)["token_ids"] for line in (ORACLE / data / "task.jsonl").read_text().splitlines()])
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    with torch.no_grad():
        p = F.log_softmax(base(ids).logits[:, :-1].double(), -1)
        model = PeftModel.from_pretrained(base, ORACLE / folder).float().eval()
        q = F.log_softmax(model(ids).logits[:, :-1].double(), -1)
    kl = (p.exp() * (p - q)).sum(-1)
    loss = lambda log: -log.gather(-1, ids[:, 1:, None]).mean().item()
    return {"tokens": kl.numel(), "baseLoss": loss(p), "loss": loss(q), "meanKl": kl.mean().item(), "maxKl": kl.max().item()}


weights = {k.removesuffix(".weight"): v.double().numpy() for k, v in load_file(BASE / "model.safetensors").items()}
result = {"spectra": {}, "intruders": {}, "overlaps": {}, "truncated": {}, "losses": {}}
for folder in SPECTRA:
    r, found = deltas(folder)
    result["spectra"][folder] = {m: spectrum(D, r) for m, D in found.items()}
    result["intruders"][folder] = {m: intruders(weights[m], D, r) for m, D in found.items()}
for first, second in PAIRS:
    (r1, one), (r2, two) = deltas(first), deltas(second)
    result["overlaps"][f"{first} + {second}"] = {m: overlap(one[m], r1, two[m], r2) for m in one if m in two}
for folder, k in [("decaying-1/r16", 8), ("decaying-1/r8", 3)]:
    result["truncated"][folder] = {"k": k, "errors": {m: truncated(D, k) for m, D in deltas(folder)[1].items()}}
for folder, data in [("decaying-1/r8", "decaying-1"), ("decaying-1/r2", "flat"), ("decaying-2/r8", "decaying-2")]:
    result["losses"][f"{folder} on {data}"] = losses(folder, data)
result["versions"] = {"numpy": np.__version__, "torch": torch.__version__}
(ORACLE / "numpy.json").write_text(json.dumps(result, indent=1) + "\n")
