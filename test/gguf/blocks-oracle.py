"""Random blocks of every format with what the gguf package (llama.cpp's own, numpy) makes of them.

Run by hand: `pip install gguf==0.17.1 numpy; python test/gguf/blocks-oracle.py > test/gguf/blocks.json`.
"""
import base64
import importlib.metadata
import json

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES

random = np.random.default_rng(20261124)
FORMATS = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
# Where the fp16 scales of a block are: random bits elsewhere, finite numbers of every size here.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
BLOCKS = 6

out = {}
for name in FORMATS:
    elements, size = GGML_QUANT_SIZES[T[name]]
    count = BLOCKS if elements > 1 else 256
    if name in SCALES:
        raw = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in SCALES[name]:
            scales = (random.standard_normal(count) * 10.0 ** random.integers(-6, 3, count)).astype(np.float16)
            raw[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    elif name == "F16":
        raw = random.standard_normal(count).astype(np.float16).view(np.uint8).reshape(count, 2)
    else:
        raw = (random.standard_normal(count).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(count, 2)
    values = quants.dequantize(raw.reshape(1, -1), T[name]).astype(np.float32)
    out[name] = {
        "blocks": base64.b64encode(raw.tobytes()).decode(),
        "float32": base64.b64encode(values.tobytes()).decode(),
    }
print(json.dumps({"versions": {p: importlib.metadata.version(p) for p in ["gguf", "numpy"]}, "formats": out}, indent=1))
