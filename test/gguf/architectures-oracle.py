"""Tiny random models of each architecture as GGUF files, and what transformers computes of the same weights.

By hand: `pip install gguf==0.19.0 torch transformers safetensors; python test/gguf/architectures-oracle.py SCRATCH`. Names are
those of gguf's own table; keys and changes of tensors are those of llama.cpp's converter. Into test/parity/oracle/gguf/:
F16 (norms and biases F32; every weight is a half, so nothing is rounded) and Q8_0. Into SCRATCH: the same in F32, which
llama-cpp.mjs there reads.
"""
import hashlib
import importlib.metadata
import json
import math
import platform
import sys
from pathlib import Path

import numpy as np
import torch
import transformers as t
from gguf import MODEL_ARCH, GGMLQuantizationType as Q, GGUFWriter, RopeScalingType, get_tensor_name_map
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[1] / "parity/oracle/gguf"
SEED, TOKENS, VOCAB = 23, 24, 40
COMMON = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
              attn_implementation="eager")
WIDE = dict(**COMMON, head_dim=16)
ROPE = dict(rope_type="default", rope_theta=500.0)
CASES = {
    "qwen2": (t.Qwen2Config, dict(**COMMON, rope_parameters=ROPE, tie_word_embeddings=True)),
    "qwen3": (t.Qwen3Config, dict(**WIDE, rope_parameters=ROPE)),
    "olmo2": (t.Olmo2Config, dict(**COMMON, rope_parameters=ROPE)),
    "gemma2": (t.Gemma2Config, dict(**WIDE, sliding_window=7, query_pre_attn_scalar=16, attn_logit_softcapping=2.0,
                                    final_logit_softcapping=3.0, rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    # The sixth layer is the first without a window.
    "gemma3": (t.Gemma3TextConfig, dict(**{**WIDE, "intermediate_size": 32, "num_hidden_layers": 6}, sliding_window=7,
                                        query_pre_attn_scalar=16, rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=10000.0),
        full_attention=dict(rope_type="linear", factor=2.0, rope_theta=3000.0)))),
    "phi3": (t.Phi3Config, dict(
        **{**COMMON, "max_position_embeddings": 1024}, sliding_window=11, original_max_position_embeddings=256,
        rope_parameters=dict(rope_type="longrope", rope_theta=500.0, partial_rotary_factor=0.5, short_factor=[1.2, 1.9],
                             long_factor=[3.0, 7.0], original_max_position_embeddings=256))),
    "gpt2": (t.GPT2Config, dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1,
                                eos_token_id=2, attn_implementation="eager")),
    "granite": (t.GraniteConfig, dict(**COMMON, embedding_multiplier=3.0, attention_multiplier=0.2,
                                      residual_multiplier=0.7, logits_scaling=1.7, rope_parameters=ROPE)),
}


@torch.no_grad()
def make(config) -> torch.nn.Module:
    torch.manual_seed(SEED)
    model = t.AutoModelForCausalLM.from_config(config)
    gemma = config.model_type.startswith("gemma")
    for name, p in model.named_parameters():
        if "embed" in name or "wte" in name or "wpe" in name:
            p.normal_(0, 0.5)
        elif p.dim() == 2:
            p.normal_(0, 0.3)
        elif ("norm" in name or "ln_" in name) and not name.endswith("bias"):
            p.normal_(0 if gemma else 1, 0.2)
        else:
            p.normal_(0, 0.3)
    return model.half().float().eval()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Halves of each head interleaved: row (p, i) becomes row 2·i + p."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def stored(kind: str, config, name: str, value: torch.Tensor) -> np.ndarray:
    array = value.numpy().copy()
    if kind.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    if kind == "gpt2" and array.ndim == 2 and ".h." in name:
        return np.ascontiguousarray(array.T)
    if kind == "granite" and name.endswith("q_proj.weight"):
        return permuted(array, config.num_attention_heads)
    if kind == "granite" and name.endswith("k_proj.weight"):
        return permuted(array, config.num_key_value_heads)
    return array


def unstored(kind: str, config, name: str, array: np.ndarray) -> np.ndarray:
    if kind == "gpt2" and ".h." in name:
        return array.T
    if kind == "granite" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return array.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    return array


def keys(w: GGUFWriter, kind: str, c) -> None:
    if kind == "gpt2":
        w.add_block_count(c.n_layer), w.add_context_length(c.n_positions), w.add_embedding_length(c.n_embd)
        w.add_feed_forward_length(4 * c.n_embd), w.add_head_count(c.n_head), w.add_layer_norm_eps(c.layer_norm_epsilon)
        return
    w.add_block_count(c.num_hidden_layers), w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size), w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads), w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    rope = c.rope_parameters
    head = c.hidden_size // c.num_attention_heads
    if kind in ("qwen3", "gemma2", "gemma3"):
        w.add_key_length(c.head_dim), w.add_value_length(c.head_dim)
    if kind == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping), w.add_final_logit_softcapping(c.final_logit_softcapping)
        w.add_sliding_window(c.sliding_window)
    elif kind == "gemma3":
        w.add_rope_freq_base(rope["full_attention"]["rope_theta"]), w.add_sliding_window(c.sliding_window)
        w.add_rope_scaling_type(RopeScalingType.LINEAR), w.add_rope_scaling_factor(rope["full_attention"]["factor"])
    elif kind == "phi3":
        ratio = c.max_position_embeddings / 256
        w.add_rope_scaling_orig_ctx_len(256), w.add_rope_dimension_count(head // 2), w.add_rope_freq_base(rope["rope_theta"])
        w.add_sliding_window(c.sliding_window)
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(ratio) / math.log(256)))
    else:
        w.add_rope_freq_base(rope["rope_theta"])
    if kind == "granite":
        w.add_vocab_size(c.vocab_size), w.add_rope_dimension_count(head)
        w.add_attention_scale(c.attention_multiplier), w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier), w.add_logit_scale(c.logits_scaling)


def tokenizer(w: GGUFWriter) -> None:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<pad>", "<s>", "</s>", "Ġ", "Ċ", *letters, "Ġa", "Ġb", "ab", "cd", "ef", "gh", "ij", "kl", "mn"][:VOCAB]
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("gpt-2"), w.add_token_list(tokens)
    w.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    w.add_token_merges(["Ġ a", "Ġ b", "a b", "c d", "e f", "g h", "i j", "k l", "m n"])
    w.add_bos_token_id(1), w.add_eos_token_id(2), w.add_add_bos_token(False)


def write(path: Path, kind: str, model: torch.nn.Module, matrices: Q) -> dict[str, np.ndarray]:
    """The file; and the weights that it stands for."""
    c = model.config
    layers = c.n_layer if kind == "gpt2" else c.num_hidden_layers
    table = get_tensor_name_map(MODEL_ARCH[kind.upper()], layers)
    w = GGUFWriter(str(path), kind)
    w.add_name("tiny"), w.add_quantization_version(2)
    w.add_file_type({Q.F32: 0, Q.F16: 1, Q.Q8_0: 7}[matrices])
    keys(w, kind, c), tokenizer(w)
    found = {}
    if kind == "phi3":
        for length in ("long", "short"):
            w.add_tensor(f"rope_factors_{length}.weight", np.array(c.rope_parameters[f"{length}_factor"], np.float32))
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        array = stored(kind, c, name, value)
        ours = table.get_name(name, (".weight", ".bias"))
        is_matrix = array.ndim == 2 and "wpe" not in name
        data = quantize(array, matrices if is_matrix else Q.F32)
        w.add_tensor(ours, data, raw_dtype=matrices if is_matrix else Q.F32)
        meant = dequantize(data, matrices) if is_matrix else value.numpy()
        found[name] = np.ascontiguousarray(unstored(kind, c, name, meant) if is_matrix else meant, np.float32)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
    return found


@torch.no_grad()
def main() -> None:
    scratch = Path(sys.argv[1])
    OUT.mkdir(exist_ok=True)
    cases, logits = {}, {}
    for kind, (config, settings) in CASES.items():
        model = make(config(**settings))
        ids = torch.randint(3, VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(SEED)).tolist()
        case = dict(ids=ids, tensors={})
        write(scratch / f"{kind}.f32.gguf", kind, model, Q.F32)
        for label, matrices in [("f16", Q.F16), ("q8_0", Q.Q8_0)]:
            found = write(OUT / f"{kind}.{label}.gguf", kind, model, matrices)
            tied = {"lm_head.weight": found.get("model.embed_tokens.weight", found.get("transformer.wte.weight"))}
            own = {name: torch.from_numpy(array) for name, array in {**(tied if model.config.tie_word_embeddings else {}), **found}.items()}
            other = t.AutoModelForCausalLM.from_config(model.config)
            other.load_state_dict(own)
            logits[f"{kind}.{label}"] = other.eval()(torch.tensor([ids])).logits[0].contiguous()
            case["tensors"][label] = {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in found.items()}
        gap = (logits[f"{kind}.f16"] - logits[f"{kind}.q8_0"]).abs().max()
        print(kind, "Q8_0 moves logits by", float(gap), "of", float(logits[f"{kind}.f16"].abs().max()))
        cases[kind] = case
    save_file(logits, OUT / "logits.safetensors")
    (OUT / "architectures.json").write_text(json.dumps({
        "command": "python test/gguf/architectures-oracle.py SCRATCH",
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in (
            "torch", "transformers", "gguf", "numpy", "safetensors")}},
        "cases": cases}, indent=1) + "\n")


main()
