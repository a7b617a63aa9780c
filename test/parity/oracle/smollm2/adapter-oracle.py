"""Write adapter/ and adapter.json beside this: a PEFT adapter on SmolLM2-135M-Instruct, and the logits of transformers + PEFT.

    python test/parity/oracle/smollm2/adapter-oracle.py smollm2.gguf

The weights are those of the GGUF, dequantised by the gguf library (not by us). The adapter is random, r = 2 on q and v of
every layer, in float16; every 192nd logit of every position of a few prompts is kept.
"""
import importlib.metadata
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import gguf
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parent
STRIDE = 192
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
HEADS = {"attn_q": 9, "attn_k": 3}


def load(path):
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields[f"llama.{key}"].contents()
    config = LlamaConfig(
        vocab_size=49152, hidden_size=value("embedding_length"), intermediate_size=value("feed_forward_length"),
        num_hidden_layers=value("block_count"), num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"), rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=value("context_length"), tie_word_embeddings=True, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base")})
    state = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        part = tensor.name.split(".")
        if part[0] == "blk":
            if part[2] in HEADS:
                # llama.cpp keeps the two halves of a head's rotation interleaved.
                heads = HEADS[part[2]]
                weight = weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)
            state[f"model.layers.{part[1]}.{NAMES[part[2]]}.weight"] = weight
        else:
            state[{"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[part[0]] + ".weight"] = weight
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model


@torch.no_grad()
def main():
    continued = json.loads((OUT / "llama-cpp.json").read_text())["continuations"]
    prompts = [one["ids"][:16] for one in continued[:3]]
    model = load(sys.argv[1])
    kept = lambda: [model(torch.tensor([ids])).logits[0, :, ::STRIDE].float() for ids in prompts]
    base = kept()
    peft = get_peft_model(model, LoraConfig(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"], bias="none"))
    torch.manual_seed(13)
    for name, p in peft.named_parameters():
        if "lora_" in name:
            p.data = (torch.randint(-64, 65, p.shape) / 1024).to(p.dtype)
    tuned = kept()
    print("effect", [float((a - b).abs().max()) for a, b in zip(base, tuned)], float(base[0].std()))
    peft.half().save_pretrained(OUT / "adapter")
    (OUT / "adapter/README.md").unlink(missing_ok=True)
    rounded = lambda list: [[round(v, 4) for v in one.flatten().tolist()] for one in list]
    versions = {n: importlib.metadata.version(n).split("+")[0] for n in ["torch", "transformers", "peft", "gguf"]}
    result = {"versions": versions, "stride": STRIDE, "prompts": prompts, "base": rounded(base), "peft": rounded(tuned)}
    (OUT / "adapter.json").write_text(json.dumps(result) + "\n")


main()
