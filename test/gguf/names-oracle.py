"""Every tensor of tiny models of transformers, with the name that llama.cpp's own table gives it in a GGUF.

Run by hand: `pip install gguf==0.19.0 torch transformers; python test/gguf/names-oracle.py > test/gguf/names.json`.
"""
import importlib.metadata
import json

from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import AutoConfig, AutoModelForCausalLM

TINY = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8, vocab_size=32)
out = {}
for name in ["llama", "qwen2", "qwen3", "olmo2"]:
    sizes = {k: v for k, v in TINY.items() if not (name == "olmo2" and k == "head_dim")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **sizes, tie_word_embeddings=False))
    table = get_tensor_name_map(MODEL_ARCH[name.upper()], TINY["num_hidden_layers"])
    out[name] = {table.get_name(key, (".weight", ".bias")): key for key in model.state_dict()}
versions = {p: importlib.metadata.version(p) for p in ["gguf", "transformers", "torch"]}
print(json.dumps({"versions": versions, "names": out}, indent=1))
