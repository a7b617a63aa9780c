"""Write the oracle for compiler/combine: what PEFT's add_weighted_adapter makes of small random adapters, in fp32 on the
CPU, and what the algebra says, in numpy and fp64, where PEFT has no such method or another result.

    python test/parity/combine-oracle.py adapters  # test/parity/oracle/combine/{a,b,c,d}: PEFT folders for oracle/tiny/base
    python test/parity/combine-oracle.py peft      # PEFT >= 0.21 -> peft.{safetensors,json}
    python test/parity/combine-oracle.py legacy    # PEFT <= 0.20 -> legacy.{safetensors,json}: the scaling applied twice
    python test/parity/combine-oracle.py algebra   # numpy, fp64 -> algebra.{safetensors,json}
    python test/parity/combine-oracle.py load      # PEFT loads what we wrote (needs node) -> load.txt
"""
import argparse
import hashlib
import importlib.metadata
import json
import math
import platform
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import peft.utils.merge_utils as merge_utils
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.numpy import load_file, save_file
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/parity/oracle/combine"
BASE = ROOT / "test/parity/oracle/tiny/base"
DRAW_SEED = 11

# in != out, r prime, alpha / r = 12 / 5; a module that one adapter lacks; one adapter of other ranks.
K, DOWN = "model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"
LORA = {
    "a": dict(r=5, lora_alpha=12, target_modules=[K, DOWN]),
    "b": dict(r=5, lora_alpha=7, target_modules=[K, DOWN]),
    "c": dict(r=5, lora_alpha=11, target_modules=[DOWN]),
    "d": dict(r=3, lora_alpha=8, target_modules=[K, DOWN], rank_pattern={DOWN: 2}, alpha_pattern={DOWN: 3}),
}
WEIGHTS = {"a": 0.7, "b": -0.4, "c": 1.3, "d": 0.9}
EQUAL_RANKS, ALL = ["a", "b", "c"], ["a", "b", "c", "d"]
DENSITY, SEED = 0.6, 42
EPSILON, GAMMA = 0.2, 0.05
RANK = 5  # the gap below the fifth singular value is wide enough that fp32 does not swap vectors across it

PEFT_CASES = {
    "cat": (ALL, {}), "svd": (ALL, dict(svd_rank=RANK)), "linear": (EQUAL_RANKS, {}),
    "magnitude_prune": (EQUAL_RANKS, dict(density=DENSITY)), "dare_linear": (EQUAL_RANKS, dict(density=DENSITY)),
    **{f"{method}.{sign}": (names, dict(density=DENSITY, majority_sign_method=sign, **rank))
       for method, names, rank in [("ties", EQUAL_RANKS, {}), ("dare_ties", EQUAL_RANKS, {}),
                                   ("ties_svd", ALL, dict(svd_rank=RANK)), ("dare_ties_svd", ALL, dict(svd_rank=RANK))]
       for sign in ("total", "frequency")},
    "magnitude_prune_svd": (ALL, dict(density=DENSITY, svd_rank=RANK)),
    "dare_linear_svd": (ALL, dict(density=DENSITY, svd_rank=RANK)),
    "svd.single": (["a"], dict(svd_rank=2)),
}


def provenance(command: str, **more: object) -> dict[str, object]:
    packages = ("torch", "transformers", "peft", "safetensors", "numpy")
    return {"command": f"python test/parity/combine-oracle.py {command}",
            "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
            "weights": WEIGHTS, "density": DENSITY, "seed": SEED, **more}


def write(name: str, tensors: dict[str, np.ndarray], about: dict[str, object]) -> None:
    save_file({key: np.ascontiguousarray(value, np.float32) for key, value in tensors.items()}, OUT / f"{name}.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()


def write_adapters() -> None:
    torch.manual_seed(DRAW_SEED)
    for name, lora in LORA.items():
        model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", bias="none", **lora))
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.data = 0.3 * torch.randn_like(weight)
        model.peft_config["default"].base_model_name_or_path = "sidepath/tiny-base"
        model.save_pretrained(OUT / name)
        (OUT / name / "README.md").unlink()


# --- random numbers, written from the definition of Threefry-2x32-20 and not from the TypeScript

def threefry(key: tuple[int, int], x0: np.ndarray, x1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rotations = [(13, 15, 26, 6), (17, 29, 16, 24)]
    ks = [np.uint32(key[0]), np.uint32(key[1]), np.uint32(0x1BD11BDA ^ key[0] ^ key[1])]
    with np.errstate(over="ignore"):
        x0, x1 = x0 + ks[0], x1 + ks[1]
        for group in range(5):
            for turn in rotations[group % 2]:
                x0 = x0 + x1
                x1 = (x1 << np.uint32(turn)) | (x1 >> np.uint32(32 - turn))
                x1 = x1 ^ x0
            x0 = x0 + ks[(group + 1) % 3]
            x1 = x1 + ks[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def uniform(seed: int, name: str, count: int) -> np.ndarray:
    key = (seed, 0)
    data = name.encode()
    for position in range((len(data) + 3) // 4):
        word = int.from_bytes(data[4 * position:4 * position + 4].ljust(4, b"\0"), "little")
        a, b = threefry(key, np.array([word], np.uint32), np.array([position], np.uint32))
        key = (int(a[0]), int(b[0]))
    counters = np.arange((count + 1) // 2, dtype=np.uint32)
    return np.stack(threefry(key, counters, np.zeros_like(counters)), 1).reshape(-1)[:count] / 2.0**32


# --- PEFT

def all_adapters(model: LlamaForCausalLM) -> PeftModel:
    first, *others = LORA
    model = PeftModel.from_pretrained(model, OUT / first, adapter_name=first)
    for name in others:
        model.load_adapter(OUT / name, name)
    return model.eval()


def seeded_bernoulli(method: str, names: list[str]):
    """torch.bernoulli with the masks of our stream, in the order in which PEFT asks for them."""
    tensors = ["delta"] if method.endswith("_svd") else ["lora_A", "lora_B"]
    asked = [f"{module}/{name}/{tensor}" for module in (K, DOWN) for tensor in tensors for name in names
             if module in LORA[name]["target_modules"]]
    queue = iter(asked)

    def draw(chances: torch.Tensor) -> torch.Tensor:
        return torch.tensor(uniform(SEED, next(queue), chances.numel()) < DENSITY).reshape(chances.shape).float()

    return draw, queue


def combine_with_peft(model: PeftModel, case: str) -> dict[str, np.ndarray]:
    names, options = PEFT_CASES[case]
    method = case.split(".")[0]
    original, (torch.bernoulli, left) = torch.bernoulli, seeded_bernoulli(method, names)
    try:
        model.add_weighted_adapter(names, [WEIGHTS[name] for name in names], case.replace(".", "_"), method, **options)
    finally:
        torch.bernoulli = original
    assert "dare" not in method or next(left, None) is None, f"{case}: PEFT drew fewer masks than expected"
    found = {}
    for module in (K, DOWN):
        layer = model.base_model.model.get_submodule(module)
        if case.replace(".", "_") in layer.lora_A:
            found[f"{case}/{module}"] = layer.get_delta_weight(case.replace(".", "_")).detach().numpy()
    return found


def write_peft(name: str, cases: list[str]) -> None:
    assert merge_utils.torch is torch
    tensors = {}
    model = all_adapters(base())
    for case in cases:
        tensors |= combine_with_peft(model, case)
    write(name, tensors, provenance(name, cases={case: dict(adapters=PEFT_CASES[case][0], **PEFT_CASES[case][1])
                                                 for case in cases}))


def is_legacy() -> bool:
    return tuple(map(int, importlib.metadata.version("peft").split(".")[:2])) < (0, 21)


# --- the algebra, dense and in fp64

def deltas(module: str, names: list[str]) -> dict[str, np.ndarray]:
    """s·B·A of each adapter, zeros where it lacks the module."""
    found = {}
    for name in names:
        tensors = load_file(OUT / name / "adapter_model.safetensors")
        key = f"base_model.model.{module}.lora_"
        if key + "A.weight" not in tensors:
            continue
        A, B = (tensors[key + factor + ".weight"].astype(np.float64) for factor in "AB")
        lora = LORA[name]
        r = lora.get("rank_pattern", {}).get(module, lora["r"])
        assert r == A.shape[0]
        found[name] = B @ A * (lora.get("alpha_pattern", {}).get(module, lora["lora_alpha"]) / r)
    return found


def cut(D: np.ndarray, rank: int) -> np.ndarray:
    U, S, V = np.linalg.svd(D, full_matrices=False)
    return U[:, :rank] * S[:rank] @ V[:rank]


def keep_largest(D: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(-np.abs(D).reshape(-1).astype(np.float32), kind="stable")
    mask = np.zeros(D.size)
    mask[order[:count]] = 1
    return D * mask.reshape(D.shape)


def elect(weighted: list[np.ndarray]) -> np.ndarray:
    stacked = np.stack(weighted)
    sign = np.where(stacked.sum(0) >= 0, 1, -1)
    agree = np.sign(stacked) == sign
    return (stacked * agree).sum(0) / np.maximum(1, agree.sum(0))


def della(D: np.ndarray, name: str) -> np.ndarray:
    ranks = np.argsort(np.argsort(np.abs(D).astype(np.float32), 1, kind="stable"), 1, kind="stable")
    chance = DENSITY - EPSILON + 2 * EPSILON * ranks / (D.shape[1] - 1)
    return np.where(uniform(SEED, name, D.size).reshape(D.shape) < chance, D / chance, 0)


def slerp(p: np.ndarray, q: np.ndarray, t: float) -> np.ndarray:
    angle = math.acos((p * q).sum() / np.linalg.norm(p) / np.linalg.norm(q))
    return (math.sin((1 - t) * angle) * p + math.sin(t * angle) * q) / math.sin(angle)


def karcher(points: list[np.ndarray], alphas: list[float]) -> np.ndarray:
    """Gradient descent with small steps, to differ from the fixed point that we use."""
    units = [p / np.linalg.norm(p) for p in points]
    mean = units[0]
    for _ in range(4000):
        tangent = sum(a * math.acos(np.clip((u * mean).sum(), -1, 1)) * ((v := u - (u * mean).sum() * mean)
                      / max(np.linalg.norm(v), 1e-300)) for a, u in zip(alphas, units))
        mean = mean + 0.1 * tangent
        mean /= np.linalg.norm(mean)
    assert np.linalg.norm(tangent) < 1e-7
    return mean * sum(a * np.linalg.norm(p) for a, p in zip(alphas, points))


def write_algebra() -> None:
    tensors = {}
    for module in (K, DOWN):
        found = deltas(module, ALL)
        weighted = {name: WEIGHTS[name] * D for name, D in found.items()}
        count = int(DENSITY * next(iter(found.values())).size)
        pruned = {name: WEIGHTS[name] * keep_largest(D, count) for name, D in found.items()}
        outliers = int(GAMMA * next(iter(found.values())).size)
        crumbs = {name: WEIGHTS[name] * (keep_largest(D, outliers + count) - keep_largest(D, outliers))
                  for name, D in found.items()}
        dropped = {name: WEIGHTS[name] * della(D, f"{module}/{name}/delta") for name, D in found.items()}
        tensors |= {f"{case}/{module}": D for case, D in {
            "exact": sum(weighted.values()),
            "exact.abc": sum(D for name, D in weighted.items() if name in EQUAL_RANKS),
            "svd": cut(sum(weighted.values()), RANK),
            "magnitude_prune_svd": cut(sum(pruned.values()), RANK),
            "ties_svd": cut(elect(list(pruned.values())), RANK),
            "breadcrumbs": cut(sum(crumbs.values()), RANK),
            "breadcrumbs_ties": cut(elect(list(crumbs.values())), RANK),
            "della_linear": cut(sum(dropped.values()), RANK),
            "della": cut(elect(list(dropped.values())), RANK),
            "slerp": slerp(found["a"], found["d"], WEIGHTS["d"] / (WEIGHTS["a"] + WEIGHTS["d"])),
            "karcher": karcher([found["a"], found["b"], found["d"]], [0.5, 0.25, 0.25]),
        }.items()}
    write("algebra", tensors, provenance("algebra", epsilon=EPSILON, gamma=GAMMA, rank=RANK,
                                         karcher={"a": 0.5, "b": 0.25, "d": 0.25}))


# --- what we wrote, loaded by PEFT

@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=torch.arange(3, 40)[None]).logits[0]


def load_ours() -> None:
    lines = [json.dumps(provenance("load")["versions"])]
    plain = logits(base())
    with tempfile.TemporaryDirectory() as folder:
        script = "const { writeForPeft } = await import(process.argv[1]); await writeForPeft(process.argv[2])"
        subprocess.run(["node", "--input-type=module", "-e", script, ROOT / "test/combine/write-for-peft.ts", folder],
                       check=True)
        for path in sorted(Path(folder).iterdir()):
            digest = hashlib.sha256((path / "adapter_model.safetensors").read_bytes()).hexdigest()
            ours = PeftModel.from_pretrained(base(), path).eval()
            result = set_peft_model_state_dict(ours, load_peft_weights(path))
            missing = [key for key in result.missing_keys if "lora_" in key]
            assert not missing and not result.unexpected_keys, (path.name, missing, result.unexpected_keys)
            theirs = all_adapters(base())
            case = path.name
            names, options = PEFT_CASES[case]
            combine_with_peft(theirs, case)
            theirs.set_adapter(case.replace(".", "_"))
            found, expected = logits(ours), logits(theirs)
            error, effect = (found - expected).abs().max().item(), (expected - plain).abs().max().item()
            assert error < 1e-4 and effect > 0.1, (case, error, effect)
            ranks = sorted({layer.r["default"] for layer in ours.modules() if hasattr(layer, "lora_A")})
            merged = (logits(ours.merge_and_unload()) - expected).abs().max().item()
            assert merged < 1e-3, (case, merged)
            lines.append(f"{case} {digest}: loads with 0 missing and 0 unexpected tensors, ranks {ranks}; max |logit - PEFT's own| "
                         f"= {error:.1e}, merged {merged:.1e}; the adapter moves logits by {effect:.2f}")
    (OUT / "load.txt").write_text("\n".join(["$ python test/parity/combine-oracle.py load", *lines]) + "\n")
    print(*lines, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["adapters", "peft", "legacy", "algebra", "load"])
    which = parser.parse_args().which
    torch.set_num_threads(1)
    if which == "adapters":
        write_adapters()
    elif which == "peft":
        assert not is_legacy()
        write_peft("peft", list(PEFT_CASES))
    elif which == "legacy":
        assert is_legacy()
        write_peft("legacy", [case for case in PEFT_CASES if "svd" in case])
    elif which == "algebra":
        write_algebra()
    else:
        load_ours()


if __name__ == "__main__":
    main()
