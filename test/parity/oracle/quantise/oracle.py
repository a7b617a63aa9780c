"""Blocks as ONNX Runtime's own quantiser and bitsandbytes make them, for quantise.test.ts. Run by hand; see `versions` in
oracle.json. Rows of 64 weights, [out, in]."""

import json

import bitsandbytes
import bitsandbytes.functional as bnb
import numpy as np
import onnxruntime
import torch
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits

rng = np.random.default_rng(7)
rows, columns, block = 6, 64, 32
weights = (rng.standard_normal((rows, columns)) * 0.3).astype(np.float32)
weights[2, :32] = np.abs(weights[2, :32])
weights[3, 32:] = 0
out = {"versions": {"onnxruntime": onnxruntime.__version__, "bitsandbytes": bitsandbytes.__version__,
                    "torch": torch.__version__, "numpy": np.__version__},
       "rows": rows, "columns": columns, "block": block, "weights": [float(w) for w in weights.ravel()], "cases": []}
for bits, quantise in ((4, quantize_matmul_4bits), (8, quantize_matmul_8bits)):
    for symmetric in (True, False):
        blocks = columns // block
        packed = np.zeros((rows, blocks, block * bits // 8), np.uint8)
        scales = np.zeros((rows * blocks,), np.float32)
        zero_points = np.zeros((rows * ((blocks * bits + 7) // 8),), np.uint8)
        quantise(packed, np.ascontiguousarray(weights.T), scales, zero_points, block, rows, columns, symmetric)
        out["cases"].append({"bits": bits, "symmetric": symmetric, "codes": packed.ravel().tolist(),
                             "scales": scales.tolist(), "zeroPoints": zero_points.tolist()})
state = bnb.quantize_4bit(torch.from_numpy(weights), blocksize=64, quant_type="nf4")
out["nf4"] = {"codes": state[0].ravel().tolist(), "absmax": state[1].absmax.tolist(), "table": state[1].code.tolist()}
json.dump(out, open("oracle.json", "w"), separators=(",", ":"))
