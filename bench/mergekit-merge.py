"""mergekit's side of bench/merge.ts: `base+adapter` as the one model of a passthrough; prints the seconds that it took after
its imports, and the peak of its resident memory in KiB. Arguments: base, adapter, out. mergekit has PEFT merge the adapter
into a folder of its own, which is new for every run, and writes the result from there."""
import json
import resource
import sys
import tempfile
import time

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

base, adapter, out = sys.argv[1:]
started = time.perf_counter()
config = MergeConfiguration.model_validate(
    {"models": [{"model": f"{base}+{adapter}"}], "merge_method": "passthrough", "dtype": "bfloat16"}
)
with tempfile.TemporaryDirectory() as cache:
    run_merge(config, out, MergeOptions(lora_merge_cache=cache, copy_tokenizer=False, quiet=True))
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "maxRssKiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
