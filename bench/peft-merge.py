"""PEFT's side of bench/merge.ts: loads a base and an adapter, merges, saves; prints the seconds that it took after its
imports, and the peak of its resident memory in KiB. Arguments: base, adapter, out."""
import json
import resource
import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, out = sys.argv[1:]
started = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "maxRssKiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
