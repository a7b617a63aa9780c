# PEFT's mixed batch, timed: a model of SmolLM2-135M's shape with random weights, several adapters, one a row. Prints its
# versions, then tokens a second for each line that it reads. Run by peft.ts.
import sys
import time

import peft
import torch
import transformers

rows, rank, prompt, answer, threads = (int(value) for value in sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
config = transformers.LlamaConfig(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
)
base = transformers.LlamaForCausalLM(config).eval()
lora = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", init_lora_weights=False)
model = peft.get_peft_model(base, lora, adapter_name="a0")
for index in range(1, rows):
    model.add_adapter(f"a{index}", lora)
model.eval()
names = [f"a{index}" for index in range(rows)]
ids = torch.arange(300, 300 + prompt).repeat(rows, 1)
print(f"PEFT {peft.__version__}, torch {torch.__version__}", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            adapter_names=names,
            max_new_tokens=answer,
            min_new_tokens=answer,
            do_sample=False,
            pad_token_id=0,
        )
    tokens = rows * (out.shape[1] - prompt)
    print(tokens / (time.perf_counter() - began), flush=True)
