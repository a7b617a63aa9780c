"""Pretrain the demo base on the corpus and write it in the Hugging Face layout, rounded to fp16."""
import argparse
import math
import time
from pathlib import Path

import numpy
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

SEED = 1
SEQUENCE = 256
BATCH = 8
WARM_UP = 200
RARE = 20  # a token seen less often than this in training counts as rare
CONFIG = dict(vocab_size=2048, hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=8,
              num_key_value_heads=2, head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-5,
              rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=True,
              attention_bias=False, mlp_bias=False, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def encode(tokenizer: Tokenizer, text: Path) -> torch.Tensor:
    """Rows [n, SEQUENCE] of <s> followed by running text."""
    lines = text.read_text(encoding="utf-8").splitlines(keepends=True)
    ids = numpy.concatenate([encoding.ids for encoding in tokenizer.encode_batch(lines, add_special_tokens=False)])
    rows = len(ids) // (SEQUENCE - 1)
    body = torch.from_numpy(ids[: rows * (SEQUENCE - 1)].astype(numpy.int64)).view(rows, SEQUENCE - 1)
    return torch.cat([torch.full((rows, 1), CONFIG["bos_token_id"]), body], dim=1)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    """Mean negative log-likelihood in nats per token."""
    model.eval()
    losses = [model(input_ids=batch, labels=batch).loss.item() * len(batch) for batch in rows.split(BATCH)]
    model.train()
    return sum(losses) / len(rows)


@torch.no_grad()
def spread_rare(model: LlamaForCausalLM, rows: torch.Tensor) -> None:
    """Give rare tokens vectors of their own.

    Training only ever pushes a token it never sees away from what it predicts, so all such rows end on one long vector
    and no adapter could tell ` refund` from ` invoice`, or answer with either. Halving that vector and adding noise of
    length 1 costs the base about 0.002 nats per token.
    """
    embedding = model.get_input_embeddings().weight
    rare = torch.bincount(rows.flatten(), minlength=len(embedding)) < RARE
    noise = torch.randn(int(rare.sum()), embedding.shape[1], generator=torch.Generator().manual_seed(SEED))
    embedding[rare] = 0.5 * embedding[rare] + noise / math.sqrt(embedding.shape[1])


def save(model: LlamaForCausalLM, out: Path) -> None:
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.half().save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train.txt and heldout.txt")
    parser.add_argument("--out", type=Path, required=True, help="the base model's folder, with tokenizer.json in it")
    parser.add_argument("--epochs", type=float, default=1.7)
    parser.add_argument("--rate", type=float, default=2e-3)
    given = parser.parse_args()

    torch.manual_seed(SEED)
    tokenizer = Tokenizer.from_file(str(given.out / "tokenizer.json"))
    rows, held_out = encode(tokenizer, given.corpus / "train.txt"), encode(tokenizer, given.corpus / "heldout.txt")
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    steps = int(given.epochs * len(rows) / BATCH)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {rows.numel()} tokens, {steps} steps", flush=True)

    decayed = [p for p in model.parameters() if p.dim() > 1]
    kept = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}],
                                  lr=given.rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / WARM_UP, 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2))
    order, started = torch.randperm(len(rows)), time.time()
    for step in range(steps):
        place = step * BATCH % len(rows)
        if place < BATCH:
            order = torch.randperm(len(rows))
        batch = rows[order[place : place + BATCH]]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.time() - started:.0f}s", flush=True)
        if step % 500 == 499:
            save(model, given.out)
    spread_rare(model, rows)
    save(model, given.out)
    rounded = LlamaForCausalLM.from_pretrained(given.out, dtype=torch.float32)
    print(f"held-out loss {held_out_loss(rounded, held_out):.4f} nats per token")


if __name__ == "__main__":
    main()
