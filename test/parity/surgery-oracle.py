"""Write the surgery oracle: exported ONNX of a tiny random Llama, a PEFT adapter, and PEFT's logits.

    python test/parity/surgery-oracle.py    # -> test/parity/oracle/surgery/

    adapter/            what PEFT's save_pretrained wrote: r = 5, rank_pattern, alpha / r = 12/5 where no pattern says else
    torchscript.onnx    torch.onnx.export(dynamo=False): node names with paths, anonymous transposed weights
    dynamo.onnx         torch.onnx.export(dynamo=True): numbered nodes, real parameter names
    nameless.onnx       torchscript.onnx without node names: nothing but the connections tells what is what
    nbits.onnx          torchscript.onnx through onnxruntime's MatMulNBitsQuantizer: 4 bits, blocks of 16
    external.onnx       torchscript.onnx with its weights in external.onnx_data
    gemm.onnx           a net of two linears on rank-2 input: Gemm with transB; gemm-adapter/ is its adapter
    (these are gzipped)
    oracle.json         versions, inputs, logits of the base and of PEFT for each
"""
import gzip
import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

PINNED = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "onnx": "1.23.2", "onnxruntime": "1.32.0",
          "onnxscript": "0.7.2"}
OUT = Path(__file__).resolve().parent / "oracle/surgery"
IDS = [[3, 7, 11, 2, 5], [1, 0, 17, 4, 9]]


class Llama(LlamaForCausalLM):
    """Called with the ids alone, so that no wrapper is part of the paths."""

    def forward(self, input_ids):
        return super().forward(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=False).logits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 4, bias=False)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def llama():
    torch.manual_seed(7)
    config = LlamaConfig(vocab_size=19, hidden_size=16, intermediate_size=28, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=6, max_position_embeddings=32, tie_word_embeddings=False,
                         pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
                         attn_implementation="eager")
    return Llama(config).eval()


def adapted(model, targets, folder, **patterns):
    """Every factor random: no B is zero."""
    config = LoraConfig(r=5, lora_alpha=12, target_modules=targets, bias="none", **patterns)
    peft = get_peft_model(model, config).eval()
    torch.manual_seed(13)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.2
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return peft


def run(path, feeds):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def dequantise(model, torch_model):
    """MatMulNBits: low nibble first along K, zero point 8 where there is none: W[n, k] = (code - zp) * scale."""
    inits = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    weights = {}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits":
            continue
        at = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        packed, scales = inits[node.input[1]], inits[node.input[2]].reshape(at["N"], -1, 1)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(at["N"], scales.shape[1], -1).astype(np.float32)
        w = ((codes - 8) * scales).reshape(at["N"], -1)[:, : at["K"]]
        weights[node.name.strip("/").rsplit("/", 1)[0].replace("/", ".")] = torch.from_numpy(w)
    for name, weight in weights.items():
        torch_model.get_submodule(name).weight.data = weight
    return sorted(weights)


def main():
    found = {name: importlib.metadata.version(name).split("+")[0] for name in PINNED}
    assert found == PINNED, found
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    ids = torch.tensor(IDS)
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "logits": {0: "batch", 1: "sequence"}}
    names = {"input_names": ["input_ids"], "output_names": ["logits"]}
    torch.onnx.export(llama(), (ids,), OUT / "torchscript.onnx", dynamo=False, dynamic_axes=axes, opset_version=17, **names)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    torch.onnx.export(llama(), (ids,), OUT / "dynamo.onnx", dynamo=True, dynamic_shapes=(dims,), external_data=False, **names)
    dynamo = onnx.load(OUT / "dynamo.onnx")
    for node in dynamo.graph.node:
        # Stack traces of the machine that exported.
        kept = [p for p in node.metadata_props if "stack_trace" not in p.key and "fx_node" not in p.key]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(dynamo, OUT / "dynamo.onnx")

    script = onnx.load(OUT / "torchscript.onnx")
    nameless = onnx.load(OUT / "torchscript.onnx")
    for node in nameless.graph.node:
        node.name = ""
    onnx.save(nameless, OUT / "nameless.onnx")
    onnx.save(script, OUT / "external.onnx", save_as_external_data=True, location="external.onnx_data", size_threshold=64)
    quantizer = MatMulNBitsQuantizer(onnx.load(OUT / "torchscript.onnx"), bits=4, block_size=16, is_symmetric=True,
                                     nodes_to_exclude=["/lm_head/MatMul"])
    quantizer.process()
    quantizer.model.save_model_to_file(str(OUT / "nbits.onnx"), False)

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    patterns = {"rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 7}, "alpha_pattern": {"v_proj": 7}}
    result = {"versions": found, "ids": IDS, "base": {}, "peft": {}}
    with torch.no_grad():
        base = llama()
        expected = base(ids)
        for name in ["torchscript", "dynamo", "nameless", "external"]:
            got = run(OUT / f"{name}.onnx", {"input_ids": ids.numpy()})
            assert np.abs(got - expected.numpy()).max() < 1e-4, name
        tuned = adapted(llama(), targets, OUT / "adapter", **patterns)(ids)
        assert (tuned - expected).abs().max() > 0.1
        result["base"]["llama"], result["peft"]["llama"] = expected.flatten().tolist(), tuned.flatten().tolist()
        rough = llama()
        assert len(dequantise(onnx.load(OUT / "nbits.onnx"), rough)) == 14
        result["base"]["nbits"] = rough(ids).flatten().tolist()
        with tempfile.TemporaryDirectory() as folder:
            result["peft"]["nbits"] = adapted(rough, targets, Path(folder), **patterns)(ids).flatten().tolist()

        torch.manual_seed(3)
        net, x = Net().eval(), torch.randn(3, 6)
        torch.onnx.export(net, (x,), OUT / "gemm.onnx", dynamo=False, input_names=["x"], output_names=["y"],
                          dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, opset_version=17)
        result["x"] = x.flatten().tolist()
        result["base"]["gemm"] = net(x).flatten().tolist()
        result["peft"]["gemm"] = adapted(net, ["up", "down"], OUT / "gemm-adapter")(x).flatten().tolist()
    for path in sorted(OUT.glob("*.onnx*")):
        # Most of an export is text; the time stays out, so that a second run gives the same bytes.
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    (OUT / "oracle.json").write_text(json.dumps(result) + "\n")
    for name in ["torchscript", "dynamo", "nbits", "gemm"]:
        model = onnx.load(OUT / f"{name}.onnx")
        print(name, [(n.op_type, n.name, list(n.input), [p.value for p in n.metadata_props if 'scope' in p.key])
                     for n in model.graph.node if n.op_type in ("MatMul", "Gemm", "MatMulNBits")])
    for path in OUT.glob("*.onnx*"):
        if path.suffix != ".gz":
            path.unlink()


main()
