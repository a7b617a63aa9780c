"""Load the adapters that `node test/trainer/write-trained.ts` trained with PEFT, and write what they answer.

    python test/parity/trained-oracle.py    # -> test/parity/oracle/train/trained/
"""
import importlib.metadata
import json
import platform
from pathlib import Path

import torch
import transformers as t
from peft import PeftModel
from safetensors.torch import save_file

ORACLE = Path(__file__).resolve().parent / "oracle"
TRAINED = ORACLE / "train/trained"


@torch.no_grad()
def main() -> None:
    asked = json.loads((TRAINED / "asked.json").read_text())
    ids = torch.tensor([asked["ids"]])
    labels = torch.where(torch.tensor([asked["isTarget"]]), ids, -100)
    losses = {}
    for name, base in asked["cases"].items():
        load = lambda: t.AutoModelForCausalLM.from_pretrained(
            ORACLE / "decoders" / base / "base", dtype=torch.float32, attn_implementation="eager").eval()
        before = load()(input_ids=ids).logits[0]
        model = PeftModel.from_pretrained(load(), TRAINED / name).eval()
        out = model(input_ids=ids, labels=labels)
        losses[name] = out.loss.item()
        save_file({"logits": out.logits[0].contiguous()}, TRAINED / f"{name}.logits.safetensors")
        print(name, "moves logits by", float((out.logits[0] - before).abs().max()))
    (TRAINED / "trained.json").write_text(json.dumps({
        "command": "node test/trainer/write-trained.ts && python test/parity/trained-oracle.py",
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in (
            "torch", "transformers", "peft", "safetensors")}},
        "losses": losses}) + "\n")


main()
