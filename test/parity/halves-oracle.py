"""The export of optimum in float16, inputs and outputs too, as ONNX Runtime's own converter makes it.

By hand: `pip install onnx onnxruntime; python test/parity/halves-oracle.py`. Versions go into the file's metadata.
"""
import gzip
from importlib.metadata import version
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

FOLDER = Path(__file__).resolve().parent / "oracle/exporters"
model = convert_float_to_float16(onnx.load_from_string(gzip.decompress((FOLDER / "optimum-llama.onnx.gz").read_bytes())))
for package in ("onnx", "onnxruntime"):
    model.metadata_props.add(key=package, value=version(package))
(FOLDER / "optimum-llama-fp16.onnx.gz").write_bytes(gzip.compress(model.SerializeToString(), mtime=0))
