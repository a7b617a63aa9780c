"""Write the oracle of the families of decoders: what transformers and PEFT compute, in fp32 on the CPU, eager attention.

    python test/parity/decoders-oracle.py    # -> test/parity/oracle/decoders/
"""
import json
import platform
import importlib.metadata
import shutil
from pathlib import Path

import torch
import transformers as t
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parent / "oracle/decoders"
SEED, PREFILL, DECODE, LENGTHS, VOCAB = 11, 9, 32, [4, 13, 8], 43
COMMON = dict(vocab_size=VOCAB, hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, head_dim=6, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
              pad_token_id=0)
PACKED = {**COMMON, "hidden_size": 32}
PACKED.pop("head_dim")
ROPE = dict(rope_type="default", rope_theta=500.0)
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
CASES = {
    "llama-llama3": (t.LlamaConfig, ALL, dict(**COMMON, attention_bias=True, mlp_bias=True, rope_parameters=dict(
        rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=24))),
    "llama-linear": (t.LlamaConfig, ALL, dict(**COMMON, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="linear", rope_theta=500.0, factor=3.0))),
    "llama-dynamic": (t.LlamaConfig, ALL, dict(**COMMON, rope_parameters=dict(
        rope_type="dynamic", rope_theta=500.0, factor=3.0))),
    "llama-yarn": (t.LlamaConfig, ALL, dict(**COMMON, rope_parameters=dict(
        rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=16))),
    "mistral": (t.MistralConfig, ALL, dict(**COMMON, sliding_window=7, rope_parameters=ROPE)),
    "qwen2": (t.Qwen2Config, ALL, dict(**PACKED, use_sliding_window=True, sliding_window=7, max_window_layers=1,
                                       rope_parameters=ROPE)),
    "qwen3": (t.Qwen3Config, ALL, dict(**COMMON, attention_bias=True, rope_parameters=ROPE)),
    "phi3": (t.Phi3Config, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], dict(
        **{**PACKED, "max_position_embeddings": 256}, sliding_window=11, original_max_position_embeddings=64,
        rope_parameters=dict(rope_type="longrope", rope_theta=500.0, partial_rotary_factor=0.5, short_factor=[1.2, 1.9],
                             long_factor=[3.0, 7.0], original_max_position_embeddings=64))),
    "gemma2": (t.Gemma2Config, ALL, dict(**COMMON, sliding_window=7, query_pre_attn_scalar=11, attn_logit_softcapping=2.0,
                                         final_logit_softcapping=3.0, rope_parameters=ROPE)),
    "gemma3": (t.Gemma3TextConfig, ALL, dict(**COMMON, sliding_window=7, query_pre_attn_scalar=11, layer_types=[
        "sliding_attention", "full_attention"], rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=100.0),
        full_attention=dict(rope_type="linear", factor=2.0, rope_theta=3000.0)))),
    "gpt2": (t.GPT2Config, ["c_attn", "c_proj", "c_fc"], dict(
        vocab_size=VOCAB, n_embd=20, n_inner=28, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)),
    "olmo2": (t.Olmo2Config, ALL, dict(**PACKED, rope_parameters=ROPE)),
    "granite": (t.GraniteConfig, ALL, dict(**PACKED, embedding_multiplier=3.0, attention_multiplier=0.2,
                                           residual_multiplier=0.7, logits_scaling=1.7, rope_parameters=ROPE)),
}


@torch.no_grad()
def randomise(model: torch.nn.Module, gemma: bool) -> None:
    for name, p in model.named_parameters():
        if "embed" in name or "wte" in name or "wpe" in name:
            p.normal_(0, 0.5)
        elif p.dim() == 2:
            p.normal_(0, 0.3)
        elif "norm" in name or "ln_" in name:
            p.normal_(0 if gemma or name.endswith("bias") else 1, 0.2)
        else:
            p.normal_(0, 0.3)


@torch.no_grad()
def cached(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """[positions, vocab]: one prefill, then a token a step on its cache."""
    x = torch.tensor([ids])
    out = model(input_ids=x[:, :PREFILL], use_cache=True)
    rows = [out.logits[0]]
    for at in range(PREFILL, len(ids)):
        out = model(input_ids=x[:, at:at + 1], past_key_values=out.past_key_values, use_cache=True,
                    attention_mask=torch.ones(1, at + 1, dtype=torch.long), position_ids=torch.tensor([[at]]))
        rows.append(out.logits[0])
    return torch.cat(rows).contiguous()


@torch.no_grad()
def padded(model: torch.nn.Module, prompts: list[list[int]], side: str) -> list[torch.Tensor]:
    longest = max(map(len, prompts))
    pad = lambda values, fill: fill * (longest - len(values)) + values if side == "left" else \
        values + fill * (longest - len(values))
    out = model(input_ids=torch.tensor([pad(p, [0]) for p in prompts]),
                attention_mask=torch.tensor([pad([1] * len(p), [0]) for p in prompts]),
                position_ids=torch.tensor([pad(list(range(len(p))), [1]) for p in prompts])).logits
    cut = lambda row, p: row[longest - len(p):] if side == "left" else row[:len(p)]
    return [cut(row, p).contiguous() for row, p in zip(out, prompts)]


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    cases = {}
    for name, (config, targets, settings) in CASES.items():
        torch.manual_seed(SEED)
        folder = OUT / name
        gemma = name.startswith("gemma")
        model = t.AutoModelForCausalLM.from_config(config(**settings))
        randomise(model, gemma)
        model.half().save_pretrained(folder / "base")
        load = lambda: t.AutoModelForCausalLM.from_pretrained(
            folder / "base", dtype=torch.float32, attn_implementation="eager").eval()
        lora = LoraConfig(r=5, lora_alpha=12, target_modules=targets, init_lora_weights=False,
                          fan_in_fan_out=name == "gpt2", task_type="CAUSAL_LM")
        get_peft_model(load(), lora).save_pretrained(folder / "adapter")
        (folder / "adapter/README.md").unlink(missing_ok=True)
        path = folder / "adapter/adapter_config.json"
        said = json.loads(path.read_text())
        path.write_text(json.dumps({**said, "base_model_name_or_path": name,
                                    "target_modules": sorted(said["target_modules"])}, indent=1) + "\n")
        ids = torch.randint(3, VOCAB, (PREFILL + DECODE,)).tolist()
        prompts = [torch.randint(3, VOCAB, (n,)).tolist() for n in LENGTHS]
        found = {}
        for who, it in [("base", load()), ("adapter", PeftModel.from_pretrained(load(), folder / "adapter").eval())]:
            found[f"{who}/cached"] = cached(it, ids)
            for side in ("left", "right"):
                for row, values in enumerate(padded(it, prompts, side)):
                    found[f"{who}/{side}/{row}"] = values
        save_file(found, folder / "logits.safetensors")
        cases[name] = dict(ids=ids, prompts=prompts)
        gap = (found["base/cached"] - found["adapter/cached"]).abs().max()
        print(name, "adapter moves logits by", float(gap), "max", float(found["base/cached"].abs().max()))
    (OUT / "decoders.json").write_text(json.dumps({
        "command": "python test/parity/decoders-oracle.py",
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in (
            "torch", "transformers", "peft", "safetensors")}},
        "prefill": PREFILL, "cases": cases}) + "\n")


main()
