# onnx.checker and onnxruntime on every graph below a folder of artifacts, as one JSON document on stdout.
# `python check-artifacts.py FOLDER`; the versions are part of what it prints. Run by check-artifacts.ts.
import json
import platform
import sys
from pathlib import Path

import onnx
import onnxruntime


def attempt(step):
    try:
        step()
        return "ok"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


graphs = {}
for path in sorted(Path(sys.argv[1]).rglob("*.onnx")):
    graphs[str(path.relative_to(sys.argv[1]))] = {
        # By path, so that external data is checked too; full: shapes and types are inferred and must agree.
        "checker": attempt(lambda: onnx.checker.check_model(str(path), full_check=True)),
        "onnxruntime": attempt(lambda: session(path)),
    }
versions = {
    "onnx": onnx.__version__,
    "onnxruntime": onnxruntime.__version__,
    "python": platform.python_version(),
}
print(json.dumps({"versions": versions, "graphs": graphs}))
