"""Write the parity oracle: what Hugging Face transformers and PEFT compute, in fp32 on the CPU, for our tests.

    python test/parity/oracle.py demo    # examples/demo -> test/parity/oracle/demo.{safetensors,json}
    python test/parity/oracle.py tiny    # random weights -> test/parity/oracle/tiny/, tiny.{safetensors,json}
"""
import argparse
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test/parity/oracle"
DEMO = ROOT / "examples/demo"
TINY = OUT / "tiny"
DEMO_ADAPTERS = ["triage", "dates", "clauses"]
GREEDY_TOKENS = 32
LAST_POSITIONS = 2  # kept of every prompt but the shortest, so that demo.safetensors stays below 3 MB

DEMO_PROMPTS = [
    "Message: Take your time.\nAnswer:\n",
    "In the beginning God created the heaven and the",
    "Message: My invoice is wrong. See my letter of 3 March 2021.\nAnswer:\n",
    "Message: This is urgent. The contract is dated July 14th, 2022. We agreed that damages are limited to the "
    "fees.\nAnswer:\n",
]
MIXED_PROMPT = ("Message: The parcel is lost and it can wait. It began on {} May 2024. Our terms say that trade "
                "secrets stay private.\nAnswer:\n")
# The rows differ by one digit, so all have one token length and the batch needs no padding.
MIXED_ROWS = [("__base__", 3), ("triage", 5), ("dates", 7), ("clauses", 9)]
SCORED = "Message: The server is down. We signed on 21 June 2016. The laws of England apply.\nAnswer:\n2016-06-21"

STRINGS = [
    "", " ", "  ", "\n", "\n\n", "\t tab", "a", " a", "Hello, world!", " leading space", "   three leading spaces",
    "trailing space ", "two\nlines", "two\n\n\nblank lines", "1234567890", "3 March 2021", "on 14/3/2021.",
    "3.14159 and -42", "It's we'll I'M they've", "naïve café Ünïcödé", "ﬁ ligature Å Å", "日本語のテキスト", "Привет, мир",
    "שלום عربى", "🙂👩‍👩‍👧‍👦🇳🇴", "x\u200by\u00a0z", "<s>inside</s><pad>", " <s> spaced </s> ",
    '{"team":"billing","priority":"high"}',
    "governing-law", "snake_case CamelCase ALLCAPS", "\r\nwindows\r\n", "\x00\x07\x7f", "a" * 40,
]

CONVERSATIONS = [
    [{"role": "user", "content": "The app crashes. It can wait."}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The bill is too high."}],
    [{"role": "user", "content": "It began on 3 March 2021."}, {"role": "assistant", "content": "2021-03-03"},
     {"role": "user", "content": "And on 4 March 2021."}],
    [{"role": "user", "content": "  spaces, \"quotes\" & <angles>\nand a second line 🙂 "}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "warranty"}],
]

TINY_SEED = 5
TINY_PROMPT_LENGTHS = [5, 11, 17]
TINY_CONFIG = dict(vocab_size=96, hidden_size=48, intermediate_size=72, num_hidden_layers=2, num_attention_heads=6,
                   num_key_value_heads=3, head_dim=8, max_position_embeddings=128, rms_norm_eps=1e-5,
                   rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, tie_word_embeddings=False,
                   attention_bias=False, mlp_bias=False, pad_token_id=0, bos_token_id=1, eos_token_id=2)
TINY_LORA = {
    "a": dict(r=5, lora_alpha=12, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                  "down_proj"]),
    "b": dict(r=3, lora_alpha=7, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"],
              rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 5}),
}


def load(base: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()


def adapted(base: Path, adapter: Path) -> PeftModel:
    return PeftModel.from_pretrained(load(base), adapter).eval()


def variants(base: Path, adapters: dict[str, Path]) -> dict[str, torch.nn.Module]:
    """base, every adapter beside the base, and every adapter merged into it."""
    models: dict[str, torch.nn.Module] = {"base": load(base)}
    for name, folder in adapters.items():
        models[name] = adapted(base, folder)
        models[f"{name}.merged"] = adapted(base, folder).merge_and_unload().eval()
    return models


@torch.no_grad()
def logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """[positions, vocab]"""
    return model(input_ids=torch.tensor([ids])).logits[0].contiguous()


@torch.no_grad()
def greedy(model: torch.nn.Module, ids: list[int], stop: int) -> list[int]:
    """At most GREEDY_TOKENS new ids, the stop id included, without a cache."""
    found: list[int] = []
    while len(found) < GREEDY_TOKENS and (not found or found[-1] != stop):
        found.append(int(logits(model, ids + found)[-1].argmax()))
    return found


def provenance(command: str, inputs: list[Path]) -> dict[str, object]:
    return {
        "command": f"python test/parity/oracle.py {command}",
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in
                     ("torch", "transformers", "peft", "tokenizers", "safetensors")}},
        "sha256": {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs},
    }


def write(name: str, tensors: dict[str, torch.Tensor], description: dict[str, object]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT / f"{name}.safetensors")
    (OUT / f"{name}.json").write_text(json.dumps(description, indent=1, ensure_ascii=True) + "\n")


def weights(base: Path, adapters: dict[str, Path]) -> list[Path]:
    return [base / "config.json", base / "model.safetensors",
            *(folder / file for folder in adapters.values() for file in ("adapter_config.json",
                                                                        "adapter_model.safetensors"))]


def mixed_batch(base: Path, adapters: dict[str, Path], tokenizer) -> tuple[torch.Tensor, dict[str, object]]:
    """Last-position logits [4, vocab] of one PEFT forward pass whose rows use different adapters."""
    names = [name for name, _ in MIXED_ROWS]
    rows = [tokenizer(MIXED_PROMPT.format(day)).input_ids for _, day in MIXED_ROWS]
    assert len({len(row) for row in rows}) == 1, "the rows of the mixed batch must have one length"
    model = load(base)
    first, *others = adapters
    model = PeftModel.from_pretrained(model, adapters[first], adapter_name=first)
    for name in others:
        model.load_adapter(adapters[name], name)
    with torch.no_grad():
        last = model.eval()(input_ids=torch.tensor(rows), adapter_names=names).logits[:, -1].contiguous()
    for i in range(len(rows)):
        for j in range(i):
            assert (last[i] - last[j]).abs().max() > 0.1, f"rows {j} and {i} of the mixed batch do not differ"
    for name, row, found in zip(names, rows, last):
        alone = logits(load(base) if name == "__base__" else adapted(base, adapters[name]), row)[-1]
        assert (found - alone).abs().max() < 1e-3, f"row {name} of the mixed batch differs from the same row alone"
    return last, {"adapter_names": names, "ids": rows}


def tokenizer_oracle(tokenizer) -> dict[str, object]:
    encoded = []
    for text in STRINGS:
        plain = tokenizer(text, add_special_tokens=False).input_ids
        special = tokenizer(text).input_ids
        encoded.append({"text": text, "ids": plain, "ids_with_special": special, "decoded": tokenizer.decode(plain),
                        "decoded_skip_special": tokenizer.decode(special, skip_special_tokens=True)})
    chats = []
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            chats.append({"messages": messages, "add_generation_prompt": prompt, "text": text,
                          "ids": tokenizer(text, add_special_tokens=False).input_ids})
    return {"strings": encoded, "chat_template": chats}


def write_demo() -> None:
    base = DEMO / "base"
    adapters = {name: DEMO / "adapters" / name for name in DEMO_ADAPTERS}
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [{"text": text, "ids": tokenizer(text).input_ids} for text in DEMO_PROMPTS]
    shortest = min(range(len(prompts)), key=lambda place: len(prompts[place]["ids"]))
    scored = tokenizer(SCORED).input_ids
    tensors: dict[str, torch.Tensor] = {}
    continuations: dict[str, list[dict[str, object]]] = {}
    scores: dict[str, list[float]] = {}
    for name, model in variants(base, adapters).items():
        for place, prompt in enumerate(prompts):
            full = logits(model, prompt["ids"])
            tensors[f"{name}/p{place}"] = full if place == shortest else full[-LAST_POSITIONS:].clone()
        if not name.endswith(".merged"):
            found = [greedy(model, prompt["ids"], tokenizer.eos_token_id) for prompt in prompts]
            continuations[name] = [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True)}
                                   for ids in found]
            chances = logits(model, scored)[:-1].log_softmax(-1)
            scores[name] = chances.gather(1, torch.tensor(scored[1:])[:, None])[:, 0].tolist()
    tensors["mixed/last"], mixed = mixed_batch(base, adapters, tokenizer)
    write("demo", tensors, {
        **provenance("demo", [*weights(base, adapters), base / "tokenizer.json", base / "tokenizer_config.json"]),
        "positions": f"p{shortest}: all; other prompts: the last {LAST_POSITIONS}",
        "prompts": prompts,
        "greedy": {"max_new_tokens": GREEDY_TOKENS, "stop": tokenizer.eos_token_id, "continuations": continuations},
        "score": {"text": SCORED, "ids": scored, "logprobs_of_ids_from_1": scores},
        "mixed": mixed,
        "tokenizer": tokenizer_oracle(tokenizer),
    })


def make_tiny() -> dict[str, Path]:
    """Random weights, norms and lora_B included, so that no forgotten factor can pass."""
    torch.manual_seed(TINY_SEED)
    base = LlamaForCausalLM(LlamaConfig(**TINY_CONFIG))
    for weight in base.parameters():
        weight.data = 1 + 0.3 * torch.randn_like(weight) if weight.dim() == 1 else 0.2 * torch.randn_like(weight)
    base.save_pretrained(TINY / "base")
    adapters = {}
    for name, lora in TINY_LORA.items():
        model = get_peft_model(load(TINY / "base"), LoraConfig(task_type="CAUSAL_LM", bias="none", **lora))
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.data = 0.2 * torch.randn_like(weight)
        config = model.peft_config["default"]
        config.base_model_name_or_path = "sidepath/tiny-base"
        config.target_modules = sorted(config.target_modules)  # PEFT keeps a set, whose order changes from run to run
        adapters[name] = TINY / name
        model.save_pretrained(adapters[name])
        (adapters[name] / "README.md").unlink()  # PEFT's card template, all placeholders
    return adapters


def write_tiny() -> None:
    adapters = make_tiny()
    generator = torch.Generator().manual_seed(TINY_SEED)
    prompts = [torch.randint(3, TINY_CONFIG["vocab_size"], (length,), generator=generator).tolist()
               for length in TINY_PROMPT_LENGTHS]
    tensors = {f"{name}/p{place}": logits(model, ids) for name, model in variants(TINY / "base", adapters).items()
               for place, ids in enumerate(prompts)}
    for name in adapters:
        for place in range(len(prompts)):
            assert (tensors[f"{name}/p{place}"] - tensors[f"base/p{place}"]).abs().max() > 0.1
            assert (tensors[f"{name}/p{place}"] - tensors[f"{name}.merged/p{place}"]).abs().max() < 1e-3
    write("tiny", tensors, {
        **provenance("tiny", weights(TINY / "base", adapters)),
        "seed": TINY_SEED,
        "positions": "all",
        "prompts": [{"ids": ids} for ids in prompts],
    })


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["demo", "tiny"])
    torch.set_num_threads(1)
    {"demo": write_demo, "tiny": write_tiny}[parser.parse_args().which]()


if __name__ == "__main__":
    main()
