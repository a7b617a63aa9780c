"""Write the oracle of .onnx_adapter files: what ONNX Runtime itself writes, and what it reads from our files.

    pip install onnxruntime onnx numpy ml_dtypes
    node test/onnx-adapter/our-files.ts test/parity/oracle/onnx-adapter
    python test/parity/onnx-adapter-oracle.py    # -> test/parity/oracle/onnx-adapter/{theirs-*.onnx_adapter,oracle.json}
"""
import ctypes
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

OUT = Path(__file__).resolve().parent / "oracle/onnx-adapter"
COMMAND = "python test/parity/onnx-adapter-oracle.py"
PACKAGES = ["onnxruntime", "onnx", "numpy", "ml_dtypes"]
NUMPY_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 10: np.float16,
               12: np.uint32, 13: np.uint64, 16: ml_dtypes.bfloat16}
BFLOAT16 = 16
SEED = 11
BATCH = 3
OPSET = 21


def ort_value(array: np.ndarray) -> ort.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def stored_bytes(value: ort.OrtValue) -> bytes:
    """What ONNX Runtime's tensor points at; bfloat16 has no numpy type to go through."""
    size = int(np.prod(value.shape())) * np.dtype(NUMPY_TYPES[value.element_type()]).itemsize
    return ctypes.string_at(value.data_ptr(), size) if size > 0 else b""


def session_of(graph: onnx.GraphProto) -> ort.InferenceSession:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def describe(path: Path) -> dict:
    adapter = ort.AdapterFormat.read_adapter(str(path))
    parameters = {}
    for name, value in sorted(adapter.get_parameters().items()):
        data = stored_bytes(value)
        parameters[name] = {"dims": list(value.shape()), "code": value.element_type(), "bytes": len(data),
                            "sha256": hashlib.sha256(data).hexdigest()}
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size,
            "formatVersion": adapter.get_format_version(), "adapterVersion": adapter.get_adapter_version(),
            "modelVersion": adapter.get_model_version(), "parameters": parameters}


def export(name: str, versions: tuple[int, int], arrays: dict[str, np.ndarray]) -> None:
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(versions[0])
    adapter.set_model_version(versions[1])
    adapter.set_parameters({key: ort_value(array) for key, array in arrays.items()})
    adapter.export_adapter(str(OUT / name))


def write_theirs() -> None:
    rng = np.random.default_rng(SEED)
    export("theirs-lora.onnx_adapter", (1, 1), {
        "model.layers.0.self_attn.q_proj.lora_A.weight": rng.standard_normal((12, 3), dtype=np.float32),
        "model.layers.0.self_attn.q_proj.lora_B.weight": rng.standard_normal((3, 20), dtype=np.float32),
        "model.layers.1.mlp.down_proj.lora_A.weight": rng.standard_normal((28, 7)).astype(np.float16),
        "model.layers.1.mlp.down_proj.lora_B.weight": rng.standard_normal((7, 12)).astype(ml_dtypes.bfloat16),
        "optional.lora_A.weight": np.zeros((12, 0), np.float32),
    })
    integers = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
    export("theirs-integers.onnx_adapter", (-7, 2147483647), {
        np.dtype(t).name: np.array([[np.iinfo(t).min, 1, np.iinfo(t).max]], dtype=t) for t in integers} | {
        "ünï.重み": np.arange(5, dtype=np.int8)})
    export("theirs-defaults.onnx_adapter", (0, 0), {"w": np.array([[1.5]], np.float32)})


def run_exported(module: str, inputs: int, out: int) -> dict:
    """x @ A @ B in a graph whose A and B are optional inputs of rank zero, as Olive makes them, without and with ours."""
    names = [f"{module}.lora_A.weight", f"{module}.lora_B.weight"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", names[0]], ["low"]), helper.make_node("MatMul", ["low", names[1]], ["y"])],
        "lora",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, inputs]),
         helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [inputs, "lora_r"]),
         helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["lora_r", out])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, out])],
        [helper.make_tensor(names[0], TensorProto.FLOAT, [inputs, 0], []),
         helper.make_tensor(names[1], TensorProto.FLOAT, [0, out], [])])
    # The other module's parameters are inputs too: ONNX Runtime refuses a parameter that the graph lacks.
    for name, value in ort.AdapterFormat.read_adapter(str(OUT / "ours-exported.onnx_adapter")).get_parameters().items():
        if name not in names:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape()))
            graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, value.shape(),
                                                        np.zeros(value.shape()).ravel()))
    session = session_of(graph)
    x = ((np.arange(BATCH * inputs) * 7 % 11 - 5) / 4).astype(np.float32).reshape(BATCH, inputs)
    adapter = ort.LoraAdapter()
    adapter.Load(str(OUT / "ours-exported.onnx_adapter"))
    options = ort.RunOptions()
    options.add_active_adapter(adapter)
    without = session.run(["y"], {"x": x})[0]
    active = session.run(["y"], {"x": x}, options)[0]
    assert not without.any() and active.any()
    return {"x": x.ravel().tolist(), "y": active.ravel().tolist()}


def main() -> None:
    write_theirs()
    oracle = {
        "command": COMMAND,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES}
        | {"python": platform.python_version()},
        "files": {path.name: describe(path) for path in sorted(OUT.glob("*.onnx_adapter"))},
        "runs": {"model.layers.0.self_attn.q_proj": run_exported("model.layers.0.self_attn.q_proj", 12, 20),
                 "model.layers.1.mlp.down_proj": run_exported("model.layers.1.mlp.down_proj", 28, 12)},
    }
    (OUT / "oracle.json").write_text(json.dumps(oracle, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
