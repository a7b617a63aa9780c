"""Write the oracle of the trainer: gradients of A, B and magnitudes by torch autograd with PEFT in fp64, and the losses of
50 steps in fp32.

    python test/parity/train-oracle.py    # -> test/parity/oracle/train/
"""
import importlib.metadata
import json
import math
import platform
from pathlib import Path

import torch
import transformers as t
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
DECODERS, DEMO, OUT = ROOT / "test/parity/oracle/decoders", ROOT / "examples/demo", ROOT / "test/parity/oracle/train"
LENGTHS, PROMPT, VOCAB, SEED = [13, 9], 4, 43, 5
STEPS, BATCH, WARM_UP, RATE, DECAY, CLIP, R, ALPHA = 50, 4, 5, 4e-3, 0.01, 1.0, 3, 12
VARIANTS = {"rslora": dict(use_rslora=True, rank_pattern={"q_proj": 3, "down_proj": 2}), "dora": dict(use_dora=True)}


def batch_of(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows padded on the right; the first PROMPT tokens of each are no targets."""
    longest = max(LENGTHS)
    ids = torch.randint(3, VOCAB, (len(LENGTHS), longest), generator=generator)
    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in LENGTHS])
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :PROMPT] = -100
    return ids * mask, mask, labels


def short(name: str) -> str:
    return name.replace("base_model.model.", "").replace(".default", "").removesuffix(".weight")


def gradients(model: torch.nn.Module) -> tuple[dict, float, dict]:
    ids, mask, labels = batch_of(torch.Generator().manual_seed(SEED))
    model.eval()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    found = {short(n): p.grad.float() for n, p in model.named_parameters() if p.requires_grad}
    values = {short(n): p.detach().float() for n, p in model.named_parameters() if p.requires_grad}
    return found, loss.item(), dict(ids=ids.tolist(), mask=mask.tolist(), labels=labels.tolist())


def base_of(folder: Path) -> torch.nn.Module:
    return t.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")


def family(name: str) -> dict:
    model = PeftModel.from_pretrained(base_of(DECODERS / name / "base"), DECODERS / name / "adapter", is_trainable=True)
    found, loss, data = gradients(model.double())
    save_file(found, OUT / f"{name}.safetensors")
    return dict(loss=loss, **data)


def variant(name: str) -> dict:
    torch.manual_seed(SEED)
    lora = LoraConfig(r=5, lora_alpha=12, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM",
                      **VARIANTS[name])
    model = get_peft_model(base_of(DECODERS / "llama-llama3/base"), lora)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "magnitude" in n:
                p.mul_(1 + 0.2 * torch.randn(p.shape, dtype=p.dtype))
            if p.requires_grad:
                p.copy_(p.float())
    save_file({n: p.detach().float().contiguous() for n, p in
               ((short(n), p) for n, p in model.named_parameters() if p.requires_grad)}, OUT / f"{name}.weights.safetensors")
    found, loss, data = gradients(model.double())
    save_file(found, OUT / f"{name}.safetensors")
    return dict(loss=loss, **data)


def curve() -> dict:
    """The demo base, its held-out messages as data, in order, BATCH a step."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(DEMO / "base/tokenizer.json"))
    base = t.LlamaForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["q_proj", "down_proj"],
                                            task_type="CAUSAL_LM"))
    weights = [p for p in model.parameters() if p.requires_grad]
    save_file({short(n): p.detach().clone() for n, p in model.named_parameters() if p.requires_grad and "lora_A" in n},
              OUT / "curve.start.safetensors")
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / WARM_UP if step < WARM_UP else
                                                 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / (STEPS - WARM_UP))))
    lines = [json.loads(line) for line in (DEMO / "heldout.jsonl").read_text().splitlines()][: STEPS * BATCH]
    losses, norms = [], []
    for step in range(STEPS):
        rows = []
        for line in lines[step * BATCH : (step + 1) * BATCH]:
            prompt = tokenizer.encode(f"Message: {line['prompt']}\nAnswer:\n").ids
            answer = tokenizer.encode(line["triage"] + "</s>", add_special_tokens=False).ids
            rows.append((prompt + answer, [-100] * len(prompt) + answer))
        longest = max(len(ids) for ids, _ in rows)
        pad = lambda values, fill: values + [fill] * (longest - len(values))
        loss = model(input_ids=torch.tensor([pad(ids, 0) for ids, _ in rows]),
                     attention_mask=torch.tensor([pad([1] * len(ids), 0) for ids, _ in rows]),
                     labels=torch.tensor([pad(labels, -100) for _, labels in rows])).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, CLIP).item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    print(losses[0], losses[-1])
    return dict(steps=STEPS, batch=BATCH, warmUp=WARM_UP, rate=RATE, decay=DECAY, clip=CLIP, r=R, alpha=ALPHA,
                losses=losses, norms=norms)


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for old in OUT.glob("*.safetensors"):
        old.unlink()
    names = sorted(path.name for path in DECODERS.iterdir() if path.is_dir())
    cases = {name: family(name) for name in names}
    variants = {name: variant(name) for name in VARIANTS}
    (OUT / "oracle.json").write_text(json.dumps({
        "command": "python test/parity/train-oracle.py",
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in (
            "torch", "transformers", "peft", "safetensors", "tokenizers")}},
        "cases": cases, "variants": variants, "curve": curve()}) + "\n")


main()
