# Trains the adapters of test/doctor/oracle/: the student of a task whose optimal change has rank 8, at r = 1, 2, 4, 8, 16.
#
# The teacher is a frozen base plus a planted change of rank 8 in several linears; the task is to predict what the teacher
# predicts. Every rank gets the same data, steps and rate. Beside the adapters it stores what the task holds (texts that
# the teacher wrote), the held-out KL of each adapter, and its exact gradients by autograd. Versions: requirements.txt.
#
#   python rank-task.py decaying-1      (or any other key of TASKS)
import argparse, json, math, pathlib, sys
import numpy as np, torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
TINY, DEMO = HERE / "../parity/oracle/tiny/base", HERE / "../../examples/demo/base"
RANKS = [1, 2, 4, 8, 16]
TINY_MODULES = [f"model.layers.{l}.{m}" for l in (0, 1) for m in ("self_attn.o_proj", "mlp.down_proj")]
# `decay`: ratio of a planted singular value to the one before; `norm`: ‖ΔW‖ over that of the base's weight; `tail`: share
# of the planted energy that is added as noise of full rank, so that no rank is exactly right.
TASKS = {
    "decaying-1": dict(base=TINY, modules=TINY_MODULES, seed=1, decay=0.85, norm=2.0, scale=2.0, steps=3000, batch=32, length=16, dtype=torch.float32),
    "decaying-2": dict(base=TINY, modules=[m.replace("o_proj", "v_proj") for m in TINY_MODULES], seed=2, decay=0.8, norm=2.0, scale=1.0, steps=3000, batch=32, length=16, dtype=torch.bfloat16),
    "flat": dict(base=TINY, modules=TINY_MODULES, seed=3, decay=1.0, norm=2.0, scale=2.4, steps=3000, batch=32, length=16, dtype=torch.float32),
    "tailed": dict(base=TINY, modules=TINY_MODULES, seed=5, decay=0.85, norm=2.0, tail=0.02, scale=2.0, steps=3000, batch=32, length=16, dtype=torch.float32),
    "demo": dict(base=DEMO, modules=["model.layers.1.self_attn.o_proj", "model.layers.2.mlp.down_proj"], seed=4, decay=0.85, norm=2.5, scale=2.0, steps=700, batch=16, length=24, dtype=torch.float16, texts=(160, 24)),
}


def load(base):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def plant(model, modules, decay, norm, tail, generator):
    for name in modules:
        weight = model.get_submodule(name).weight
        out, inn = weight.shape
        U, _ = torch.linalg.qr(torch.randn(out, 8, generator=generator))
        V, _ = torch.linalg.qr(torch.randn(inn, 8, generator=generator))
        s = decay ** torch.arange(8.0)
        s = s / s.norm() * norm * weight.norm()
        with torch.no_grad():
            change = (U * s) @ V.T
            if tail > 0:
                noise = torch.randn(out, inn, generator=generator)
                change += noise * (tail ** 0.5) * change.norm() / noise.norm()
            weight += change


def tokens(base, vocab, batch, length, generator):
    return torch.randint(3, vocab, (batch, length), generator=generator)


def kl(student, teacher):
    return F.kl_div(F.log_softmax(student, -1), F.log_softmax(teacher, -1), log_target=True, reduction="sum") / (student.shape[0] * student.shape[1])


def train(task, r, teacher, alpha):
    torch.manual_seed(100 * task["seed"] + r)
    model = load(task["base"])
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=task["modules"], lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=task.get("lr", 1e-2), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, task["steps"], 1e-6)
    generator = torch.Generator().manual_seed(1000 + task["seed"])
    vocab = teacher.config.vocab_size
    for step in range(task["steps"]):
        ids = tokens(task["base"], vocab, task["batch"], task["length"], generator)
        with torch.no_grad():
            wanted = teacher(ids).logits
        loss = kl(model(ids).logits, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(); schedule.step(); optimiser.zero_grad()
        if step % 500 == 0:
            print(f"  r={r} step {step} KL {loss.item():.5f}", file=sys.stderr, flush=True)
    return model


def write(teacher, count, length, generator):
    """What the teacher writes, token by token, after a random start."""
    ids = tokens(None, teacher.config.vocab_size, count, 1, generator)
    with torch.no_grad():
        while ids.shape[1] < length:
            p = torch.softmax(teacher(ids).logits[:, -1].double(), -1)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], 1)
    return ids


def main():
    name = argparse.ArgumentParser()
    name.add_argument("task", choices=TASKS)
    name.add_argument("--out", type=pathlib.Path, default=HERE / "oracle")
    args = name.parse_args()
    task = TASKS[args.task]
    out = args.out / args.task
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(task["seed"])
    teacher = load(task["base"])
    plant(teacher, task["modules"], task["decay"], task["norm"], task.get("tail", 0.0), generator)
    rows, length = task.get("texts", (96, 24))
    texts = write(teacher, rows, length, torch.Generator().manual_seed(7 + task["seed"]))
    (out / "task.jsonl").write_text("".join(json.dumps({"token_ids": row}) + "\n" for row in texts.tolist()))
    held = tokens(None, teacher.config.vocab_size, 64, task["length"], torch.Generator().manual_seed(99))
    with torch.no_grad():
        wanted = teacher(held).logits
        base = load(task["base"])
        figures = {"task": {k: (v.resolve().name if isinstance(v, pathlib.Path) else str(v)) for k, v in task.items()}, "base": {"kl": kl(base(held).logits, wanted).item(), "nll": nll(base, texts)}, "teacher": {"nll": nll(teacher, texts)}, "ranks": {}}
    print(args.task, "base KL", figures["base"], "teacher", figures["teacher"], file=sys.stderr, flush=True)
    for r in RANKS:
        model = train(task, r, teacher, task["scale"] * r)
        folder = out / f"r{r}"
        for n, p in model.named_parameters():
            if "lora_" in n:
                p.data = p.data.to(task["dtype"])
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = task["base"].resolve().name
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        for n, p in model.named_parameters():
            if "lora_" in n:
                p.data = p.data.float()
        with torch.no_grad():
            figures["ranks"][r] = {"kl": kl(model(held).logits, wanted).item(), "nll": nll(model, texts)}
        spectra = {}
        for m in task["modules"]:
            layer = model.base_model.model.get_submodule(m)
            delta = layer.scaling["default"] * (layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double())
            spectra[m] = torch.linalg.svdvals(delta)[:r].tolist()
        figures["ranks"][r]["spectra"] = spectra
        print(f"r={r}", {k: v for k, v in figures["ranks"][r].items() if k != 'spectra'}, {m: [round(x, 4) for x in s] for m, s in spectra.items()}, file=sys.stderr, flush=True)
    figures["versions"] = {"torch": torch.__version__, "numpy": np.__version__}
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


def nll(model, texts):
    with torch.no_grad():
        logits = model(texts).logits[:, :-1].double()
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), texts[:, 1:].reshape(-1)).item()


main()
