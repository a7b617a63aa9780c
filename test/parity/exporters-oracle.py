"""Write the exporters oracle: one tiny random model as the real exporters write it, PEFT adapters, and PEFT's logits.

    GENAI_PYTHON=<python with onnxruntime-genai> python test/parity/exporters-oracle.py   # -> test/parity/oracle/exporters/

A Llama and the Phi 3 of the same numbers (its fused linears are the Llama's, one below the other), so that each adapter has
an oracle whatever the graph fuses. optimum-onnx wants transformers 4, the builder transformers 5: hence two Pythons.

    optimum-{llama,phi3}         optimum-onnx, text-generation-with-past
    optimum-llama-q4             onnxruntime's MatMulNBitsQuantizer on it, as transformers.js does: 4 bits, with zero points
    optimum-llama-qdq4           the same quantizer, QDQ: DequantizeLinear in blocks
    optimum-llama-qdq8           weights per channel in int8: DequantizeLinear with one axis, written by this script
    optimum-llama-bnb4           onnxruntime's MatMulBnb4Quantizer, NF4
    genai-llama-{fp32,int4}      onnxruntime_genai.models.builder, cpu: q, k and v in one linear, gate and up apart; of the
                                 Phi 3 it writes the same bytes
    whole/, part/, fused/        adapters: all linears of the Llama; q, v and gate; all linears of the Phi 3
    oracle.json                  versions, inputs, logits for each export with each adapter (weights of the quantised ones
                                 dequantised by this script)
"""
import gzip
import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from optimum.exporters.onnx import main_export
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

PINNED = {"torch": "2.13.0", "transformers": "4.57.6", "peft": "0.21.2", "onnx": "1.23.2", "onnxruntime": "1.32.0",
          "optimum": "2.1.0", "optimum-onnx": "0.1.0"}
GENAI = {"onnxruntime-genai": "0.18.0", "transformers": "5.23.0", "torch": "2.13.0", "onnx-ir": "1.1.0"}
OUT = Path(__file__).resolve().parent / "oracle/exporters"
IDS = [[3, 7, 11, 2, 5], [1, 0, 17, 4, 9]]
# The builder takes a linear with as many outputs as there are tokens for the head: no other size is 40.
SIZES = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
             bos_token_id=1, eos_token_id=2, pad_token_id=0, attn_implementation="eager")
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def llama():
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    for name, p in model.named_parameters():
        if p.dim() == 2:
            # Few values, so that the files are small.
            p.data = torch.randint(-50, 51, p.shape) / (64 if "embed" in name else 256)
    return model


def phi3_of(model):
    fused = Phi3ForCausalLM(Phi3Config(**SIZES, original_max_position_embeddings=64)).eval()
    state = dict(model.state_dict())
    for i in range(SIZES["num_hidden_layers"]):
        at = f"model.layers.{i}."
        state[at + "self_attn.qkv_proj.weight"] = torch.cat([state.pop(f"{at}self_attn.{x}_proj.weight") for x in "qkv"])
        state[at + "mlp.gate_up_proj.weight"] = torch.cat([state.pop(f"{at}mlp.{x}_proj.weight") for x in ("gate", "up")])
    fused.load_state_dict(state)
    return fused


ADAPTERS = {
    "whole": (llama, dict(r=5, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
                          rank_pattern={"q_proj": 3, "layers.1.mlp.down_proj": 7}, alpha_pattern={"v_proj": 7})),
    "part": (llama, dict(r=3, use_rslora=True, target_modules=["q_proj", "v_proj", "gate_proj"])),
    "fused": (phi3_of, dict(r=5, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])),
}


def adapted(model, options, folder):
    """Every factor random: no B is zero."""
    peft = get_peft_model(model, LoraConfig(lora_alpha=12, bias="none", **options)).eval()
    torch.manual_seed(13)
    for name, p in peft.named_parameters():
        if "lora_" in name:
            p.data = torch.randint(-50, 51, p.shape) / 256
    peft.save_pretrained(folder)
    (Path(folder) / "README.md").unlink(missing_ok=True)
    return peft


def run(path):
    # As it is written: the optimiser makes products of 8-bit activations of DequantizeLinear and MatMul.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ids = np.array(IDS, np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.tile(np.arange(5), (2, 1))}
    given = {i.name: feeds.get(i.name, np.zeros((2, 1, 0, 16), np.float32)) for i in session.get_inputs()}
    return session.run(None, given)[0]


def weights(model):
    """Module path as the node has it -> float weight [out, in], of every quantised linear."""
    inits = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {o: n for n in model.graph.node for o in n.output}
    found = {}
    for node in model.graph.node:
        at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        path = node.name.strip("/").rsplit("/", 1)[0].replace("/", ".").replace(".attn.", ".self_attn.")
        if node.op_type == "MatMulNBits":
            n, k, bits, block = at["N"], at["K"], at["bits"], at["block_size"]
            packed, scales = inits[node.input[1]], inits[node.input[2]].astype(np.float32).reshape(n, -1, 1)
            blocks = scales.shape[1]
            split = lambda b: np.stack([b & 15, b >> 4], axis=-1).reshape(*b.shape[:-1], -1) if bits == 4 else b
            codes = split(packed).reshape(n, blocks, block).astype(np.float32)
            zeros = 2.0 ** (bits - 1)
            if len(node.input) > 3 and node.input[3]:
                zeros = split(inits[node.input[3]].reshape(n, -1))[:, :blocks].astype(np.float32)[..., None]
            found[path] = ((codes - zeros) * scales).reshape(n, -1)[:, :k]
        elif node.op_type == "MatMulBnb4":
            n, k, block = at["N"], at["K"], at["block_size"]
            packed, largest = inits[node.input[1]].reshape(-1), inits[node.input[2]].reshape(-1)
            values = np.array(NF4, np.float32)[np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)]
            found[path] = (values[: n * k] * np.repeat(largest, block)[: n * k]).reshape(n, k)
        elif node.op_type == "MatMul" and node.input[1] in makers and makers[node.input[1]].op_type == "DequantizeLinear":
            found[path] = dequantised(model, makers[node.input[1]]).T
    return found


def dequantised(model, node):
    """By ONNX Runtime itself, on a model of this node alone."""
    used = [t for t in model.graph.initializer if t.name in node.input]
    graph = helper.make_graph([node], "one", [], [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)], used)
    one = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=10)
    return ort.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {})[0]


def with_weights(found):
    model = llama()
    rows = {"q": 32, "k": 16, "v": 16, "gate": 48, "up": 48}
    for path, weight in found.items():
        whole = torch.from_numpy(weight.copy())
        parent, _, name = path.rpartition(".")
        parts = {"qkv_proj": "q k v", "gate_up_proj": "gate up"}.get(name)
        if parts is None:
            model.get_submodule(path).weight.data = whole
            continue
        for part, piece in zip(parts.split(), whole.split([rows[p] for p in parts.split()])):
            model.get_submodule(f"{parent}.{part}_proj").weight.data = piece
    return model


def per_channel(model):
    """Every weight of a MatMul in int8 with a scale a column, behind DequantizeLinear with axis 1."""
    inits = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in inits and "lm_head" not in node.name:
            name, w = node.input[1], numpy_helper.to_array(inits[node.input[1]])
            scale = (np.abs(w).max(axis=0) / 127).astype(np.float32)
            codes = np.clip(np.rint(w / scale), -127, 127).astype(np.int8)
            model.graph.initializer.remove(inits[name])
            model.graph.initializer.extend([numpy_helper.from_array(codes, name + "_quantized"),
                                            numpy_helper.from_array(scale, name + "_scale")])
            nodes.append(helper.make_node("DequantizeLinear", [name + "_quantized", name + "_scale"], [name + "_dq"],
                                          name=name + "_DequantizeLinear", axis=1))
            node.input[1] = name + "_dq"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def rounded(logits):
    return [round(value, 6) for value in logits.flatten().tolist()]


def genai_versions():
    ask = f"import importlib.metadata as m; print(' '.join(m.version(n).split('+')[0] for n in {list(GENAI)}))"
    said = subprocess.run([os.environ["GENAI_PYTHON"], "-c", ask], check=True, capture_output=True, text=True).stdout
    return dict(zip(GENAI, said.split()))


def export_all(folder):
    tokens = {c: i for i, c in enumerate(["<pad>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz0123456789!"[:37]])}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(tokens, unk_token="<pad>")),
                                        bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    files = {}
    for name, model in {"llama": llama(), "phi3": phi3_of(llama())}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        main_export(str(folder / name), output=folder / f"optimum-{name}", task="text-generation-with-past", do_validation=False)
        files[f"optimum-{name}"] = onnx.load(folder / f"optimum-{name}/model.onnx")
        for precision in ["fp32", "int4"]:
            key = f"genai-{name}-{precision}"
            subprocess.run([os.environ["GENAI_PYTHON"], "-m", "onnxruntime_genai.models.builder", "-i", folder / name,
                            "-o", folder / key, "-p", precision, "-e", "cpu", "-c", folder / "cache", "--extra_options",
                            "block_size=16", "accuracy_level=1"], check=True, stdout=subprocess.DEVNULL)
            files[key] = onnx.load(folder / key / "model.onnx")
    for precision in ["fp32", "int4"]:
        of_phi3 = files.pop(f"genai-phi3-{precision}")
        assert of_phi3.SerializeToString() == files[f"genai-llama-{precision}"].SerializeToString()
    path = folder / "optimum-llama/model.onnx"
    load = lambda: onnx.load(path)
    for key, form in {"q4": QuantFormat.QOperator, "qdq4": QuantFormat.QDQ}.items():
        config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=False, bits=4, quant_format=form)
        quantizer = MatMulNBitsQuantizer(load(), algo_config=config)
        quantizer.process()
        files[f"optimum-llama-{key}"] = quantizer.model.model
    bnb = MatMulBnb4Quantizer(load(), 1, 16)
    bnb.process()
    files["optimum-llama-bnb4"] = bnb.model.model
    files["optimum-llama-qdq8"] = per_channel(load())
    return files


@torch.no_grad()
def main():
    found = {name: importlib.metadata.version(name).split("+")[0] for name in PINNED}
    assert found == PINNED, found
    assert genai_versions() == GENAI, genai_versions()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    result = {"versions": found, "genai": GENAI, "ids": IDS, "base": {}, "peft": {}}
    ids = torch.tensor(IDS)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for name, model in export_all(scratch).items():
            for node in model.graph.node:
                # What is long and says nothing of the linears.
                kept = [p for p in node.metadata_props if "name_scopes" in p.key]
                del node.metadata_props[:]
                node.metadata_props.extend(kept)
            path = scratch / f"{name}.onnx"
            onnx.save(model, path)
            base = with_weights(weights(model))
            expected = base(ids).logits
            off = np.abs(run(path) - expected.numpy()).max()
            print(name, path.stat().st_size, len(weights(model)), off)
            assert off < 1e-4, name
            result["base"][name] = rounded(expected)
            result["peft"][name] = {}
            for adapter, (make, options) in ADAPTERS.items():
                start = with_weights(weights(model))
                tuned = adapted(phi3_of(start) if make is phi3_of else start, options, OUT / adapter)(ids).logits
                assert (tuned - expected).abs().max() > 0.05
                result["peft"][name][adapter] = rounded(tuned)
            (OUT / f"{name}.onnx.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    (OUT / "oracle.json").write_text(json.dumps(result) + "\n")


main()
