"""PEFT loads the adapter that `sidepath extract` finds between the tiny base and the tiny base with an adapter of PEFT
merged in, and compares its logits with those of that adapter: test/parity/oracle/extract/load.txt (needs node).

    python test/parity/extract-oracle.py
"""
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import load_peft_weights, set_peft_model_state_dict
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT / "test/parity/oracle"
SCRIPT = "const { writeExtracted } = await import(process.argv[1]); await writeExtracted(process.argv[2])"


def base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(ORACLE / "tiny/base", dtype=torch.float32, attn_implementation="eager").eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=torch.arange(3, 40)[None]).logits[0]


def main() -> None:
    torch.set_num_threads(1)
    packages = ("torch", "transformers", "peft", "safetensors")
    versions = {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}}
    lines = ["$ python test/parity/extract-oracle.py", json.dumps(versions)]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "extracted"
        subprocess.run(["node", "--input-type=module", "-e", SCRIPT, ROOT / "test/merge/write-extracted.ts", path], check=True)
        ours = PeftModel.from_pretrained(base(), path).eval()
        result = set_peft_model_state_dict(ours, load_peft_weights(path))
        missing = [key for key in result.missing_keys if "lora_" in key]
        assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
        theirs = PeftModel.from_pretrained(base(), ORACLE / "combine/a").eval()
        plain, expected, found = logits(base()), logits(theirs), logits(ours)
        error, effect = (found - expected).abs().max().item(), (expected - plain).abs().max().item()
        merged = (logits(ours.merge_and_unload()) - expected).abs().max().item()
        assert error < 1e-4 and merged < 1e-4 and effect > 0.1, (error, merged, effect)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            lines.append(f"{name} {hashlib.sha256((path / name).read_bytes()).hexdigest()}")
        lines.append(f"loads with 0 missing and 0 unexpected tensors; max |logit - those of the adapter that was merged| = {error:.1e}, "
                     f"merged {merged:.1e}; the adapter moves logits by {effect:.2f}")
    (ORACLE / "extract").mkdir(exist_ok=True)
    (ORACLE / "extract/load.txt").write_text("\n".join(lines) + "\n")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
