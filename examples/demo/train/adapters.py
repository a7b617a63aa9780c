"""Train one LoRA adapter on the frozen demo base with PEFT and save it rounded to fp16."""
import argparse
import math
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

import tasks

SEED = 3
WARM_UP = 50
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

# Every adapter differs in rank, scale and target modules, and one uses rsLoRA, so that no reader can confuse them.
LORA = {
    "triage": dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]),
    "dates": dict(r=16, lora_alpha=24, use_rslora=True, target_modules=ATTENTION + MLP),
    "clauses": dict(r=5, lora_alpha=12, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]),
}

# Steps and learning rate; the rsLoRA scale of dates, 24 / sqrt(16) = 6, diverges at 4e-3.
SCHEDULE = {"triage": (400, 2e-3), "dates": (1000, 1.5e-3), "clauses": (600, 2e-3)}
BATCH = 32


def render(prompt: str) -> str:
    """What the chat template renders for one user message with a generation prompt, without <s>."""
    return f"Message: {prompt}\nAnswer:\n"


def collate(pairs: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """input_ids, attention_mask and labels [batch, longest]; only the answer and </s> are labels."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids, mask, labels = [], [], []
    for prompt, answer in pairs:
        spare = longest - len(prompt) - len(answer)
        ids.append(prompt + answer + [pad] * spare)
        mask.append([1] * (longest - spare) + [0] * spare)
        labels.append([-100] * len(prompt) + answer + [-100] * spare)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=tasks.TASKS)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder that holds the adapters")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    steps, rate = SCHEDULE[given.task]

    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(given.base / "tokenizer.json"))
    base = LlamaForCausalLM.from_pretrained(given.base, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", bias="none", lora_dropout=0.0, **LORA[given.task]))
    model.print_trainable_parameters()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / WARM_UP, 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2))

    rows = tasks.training(steps * BATCH)
    prompts = tokenizer.encode_batch([render(row["prompt"]) for row in rows])
    answers = tokenizer.encode_batch([row[given.task] + "</s>" for row in rows], add_special_tokens=False)
    pairs = [(prompt.ids, answer.ids) for prompt, answer in zip(prompts, answers)]
    started = time.time()
    for step in range(steps):
        batch = collate(pairs[step * BATCH : (step + 1) * BATCH], tokenizer.token_to_id("<pad>"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"{given.task} step {step} loss {loss.item():.4f} {time.time() - started:.0f}s", flush=True)

    for weight in weights:
        weight.data = weight.data.half()
    config = model.peft_config["default"]
    config.base_model_name_or_path = "sidepath/demo-base"
    config.target_modules = sorted(config.target_modules)  # PEFT keeps a set, whose order changes from run to run
    model.save_pretrained(given.out / given.task)
    (given.out / given.task / "README.md").unlink()  # PEFT's card template, all placeholders


if __name__ == "__main__":
    main()
