"""Measure held-out perplexity of the base and exact-match accuracy of base and adapters; write measured.json."""
import argparse
import importlib.metadata
import json
import math
import platform
from collections import defaultdict
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

import adapters
import base
import tasks

NEW_TOKENS = 16  # the longest right answer has 10 tokens and </s>


def perplexity(model: LlamaForCausalLM, tokenizer: Tokenizer, text: Path) -> dict[str, float]:
    rows = base.encode(tokenizer, text)
    nats = base.held_out_loss(model, rows)
    # In a byte-level vocabulary every character of a token's name stands for one byte.
    size = sum(len(tokenizer.id_to_token(token)) for token in rows[:, 1:].flatten().tolist())
    tokens = rows[:, 1:].numel()
    return {"heldout_tokens": tokens, "heldout_bytes": size, "nats_per_token": round(nats, 4),
            "perplexity_per_token": round(math.exp(nats), 2),
            "bits_per_byte": round(nats * tokens / size / math.log(2), 4)}


@torch.no_grad()
def answers(model: torch.nn.Module, tokenizer: Tokenizer, prompts: list[str]) -> list[str]:
    """Greedy answers; prompts of one length go together, so nothing is padded."""
    groups = defaultdict(list)
    for place, prompt in enumerate(prompts):
        ids = tokenizer.encode(adapters.render(prompt)).ids
        groups[len(ids)].append((place, ids))
    found = [""] * len(prompts)
    for length, group in groups.items():
        ids = torch.tensor([ids for _, ids in group])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS,
                             do_sample=False)
        for (place, _), row in zip(group, out[:, length:].tolist()):
            found[place] = tokenizer.decode(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True, help="folder with base/, adapters/ and heldout.jsonl")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with heldout.txt")
    parser.add_argument("--wrong", action="store_true", help="print every wrong answer of the right adapter")
    given = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(given.demo / "base/tokenizer.json"))
    held_out = [json.loads(line) for line in (given.demo / "heldout.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for row in held_out]
    model = LlamaForCausalLM.from_pretrained(given.demo / "base", dtype=torch.float32)
    measured = {"versions": {"python": platform.python_version(),
                             **{name: importlib.metadata.version(name) for name in
                                ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")}},
                "base": perplexity(model, tokenizer, given.corpus / "heldout.txt"),
                "heldout_prompts": len(prompts), "exact_match": {}}
    given_by = {"base": answers(model, tokenizer, prompts)}
    model = PeftModel.from_pretrained(model, given.demo / "adapters" / tasks.TASKS[0], tasks.TASKS[0])
    for name in tasks.TASKS[1:]:
        model.load_adapter(given.demo / "adapters" / name, name)
    for name in tasks.TASKS:
        model.set_adapter(name)
        given_by[name] = answers(model, tokenizer, prompts)
    for name, found in given_by.items():
        measured["exact_match"][name] = {task: sum(a == row[task] for a, row in zip(found, held_out)) / len(prompts)
                                         for task in tasks.TASKS}
    if given.wrong:
        for name in tasks.TASKS:
            for answer, row in zip(given_by[name], held_out):
                if answer != row[name]:
                    print(name, repr(answer), row)
    text = json.dumps(measured, indent=2) + "\n"
    (given.demo / "measured.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
