"""Write the adapter oracle: what PEFT's merge_and_unload() makes of every kind of LoRA that PEFT can save.

    python test/parity/peft-oracle.py    # -> test/parity/oracle/peft/

Four tiny bases (a Llama, a GPT-2 whose linears are Conv1D, a BERT with biases, a net with convolutions), each stored in
fp32, fp16 and bf16. One adapter folder per case, trained by a random number generator: no factor is zero, in != out
except where a case is about square weights, ranks are primes, alpha / r = 12/5 unless the case says otherwise.

    base/<model>-<dtype>.safetensors   the checkpoints
    adapters.safetensors               every file of every adapter folder, byte for byte, as U8: "<case>/<file>"
    results.safetensors                "<case>/<dtype>/<tensor>": each tensor that the merge changed, and only those
    algebra.safetensors                the same in fp64 from the formulas, where PEFT is more than one ulp away from them.
                                       Each is one sum that PEFT rounds twice: the delta of embeddings and of MiCA, and
                                       the saved weights that a delta is added to, go to the stored type first
    oracle.json                        versions, cases, PEFT's largest distance from the formulas (fp32: absolute; else ulps)
    patterns.json                      random regexes on random names, by Python's `re`; which modules PEFT says that a config
                                       targets, which value it takes for each from a pattern
"""
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Embedding, LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper, get_pattern_key
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, LlamaConfig,
                          LlamaForCausalLM)
from transformers.pytorch_utils import Conv1D

PINNED = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "safetensors": "0.8.0"}
OUT = Path(__file__).resolve().parent / "oracle/peft"
SEED = 11
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What fp32 sums of these sizes lose: seen next to zero, where an ulp is smaller still.
NOISE = 1e-6
# Distance between neighbours of 1.0, and the smallest one of all.
EPSILON = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
SMALLEST = {"F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


class Net(nn.Module):
    """What transformers rarely has: convolutions of one and two dimensions, a kernel of 1x1, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, (3, 2))
        self.pointwise = nn.Conv2d(5, 7, 1)
        self.wave = nn.Conv1d(7, 4, 3, bias=False)
        self.emb = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 3)


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(vocab_size=31, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                                        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                        max_position_embeddings=32, tie_word_embeddings=False, attention_bias=False,
                                        mlp_bias=False, pad_token_id=0, bos_token_id=1, eos_token_id=2))


def gpt2() -> nn.Module:
    # attn.c_proj is square: only its type, Conv1D, tells how it is stored.
    return GPT2LMHeadModel(GPT2Config(vocab_size=29, n_positions=10, n_embd=12, n_layer=2, n_head=3, n_inner=20,
                                      bos_token_id=1, eos_token_id=2, tie_word_embeddings=False))


def bert() -> nn.Module:
    return BertForSequenceClassification(BertConfig(vocab_size=37, hidden_size=16, num_hidden_layers=2,
                                                    num_attention_heads=2, intermediate_size=24,
                                                    max_position_embeddings=12, num_labels=3))


MODELS = {"llama": llama, "gpt2": gpt2, "bert": bert, "net": Net}
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TWO = ["q_proj", "down_proj"]

# name: (model, LoraConfig, how to save). r = 5 and alpha = 12 unless given.
CASES: dict[str, tuple[str, dict, dict]] = {
    "plain": ("llama", dict(target_modules=SEVEN), {}),
    "rslora": ("llama", dict(target_modules=TWO, use_rslora=True), {}),
    "alpha-fraction": ("llama", dict(target_modules=TWO, r=7, lora_alpha=2.5), {}),
    "alpha-negative": ("llama", dict(target_modules=TWO, r=3, lora_alpha=-4), {}),
    "defaults": ("llama", dict(target_modules=TWO, r=8, lora_alpha=8), {"drop": ["r", "lora_alpha"]}),
    "gaussian": ("llama", dict(target_modules=TWO, init_lora_weights="gaussian"), {}),
    "orthogonal": ("llama", dict(target_modules=TWO, r=2, init_lora_weights="orthogonal"), {}),
    "mica": ("llama", dict(target_modules=TWO, init_lora_weights="mica"), {}),
    "full-names": ("llama", dict(target_modules=["model.layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"]), {}),
    "target-regex": ("llama", dict(target_modules=r".*\.layers\.(0|2)\.(self_attn\.[qv]_proj|mlp\.(?:up|down)_\w+)"), {}),
    "target-lookahead": ("llama", dict(target_modules=r"^model(?!.*(lm_head|k_proj)).*\.1\.self_attn\..*_proj"), {}),
    "all-linear": ("llama", dict(target_modules="all-linear", r=2), {}),
    "all-linear-shorthand": ("llama", dict(target_modules="all-linear", r=2), {"set": {"target_modules": "all-linear"}}),
    "exclude-list": ("llama", dict(target_modules=SEVEN[:4], exclude_modules=["layers.1.self_attn.q_proj", "v_proj"]), {}),
    "exclude-regex": ("llama", dict(target_modules=TWO, exclude_modules=r"model\.layers\.[12]\..*down_proj"), {}),
    "layers-list": ("llama", dict(target_modules=TWO, layers_to_transform=[0, 2]), {}),
    "layers-number": ("llama", dict(target_modules=TWO, layers_to_transform=1, layers_pattern="layers"), {}),
    "layers-patterns": ("llama", dict(target_modules=TWO, layers_to_transform=[2], layers_pattern=["h", "layers"]), {}),
    "rank-pattern": ("llama", dict(target_modules=TWO, rank_pattern={"q_proj": 3, "layers.2.mlp.down_proj": 7}), {}),
    "alpha-pattern": ("llama", dict(target_modules=TWO, alpha_pattern={"layers.0.self_attn.q_proj": 7, "mlp.down_proj": 5}), {}),
    "pattern-regex": ("llama", dict(target_modules=SEVEN[:3], rank_pattern={r"^model.layers.[01]\.self_attn.(q|v)_proj": 3},
                                    alpha_pattern={r"\w+.[2-9].+_proj": 31, r"k_\D{4}": 17}), {}),
    "pattern-first-hit": ("llama", dict(target_modules=TWO, alpha_pattern={".*q_proj": 19, "layers.0.self_attn.q_proj": 3,
                                                                         "q_proj": 29}), {}),
    "pattern-rslora": ("llama", dict(target_modules=TWO, use_rslora=True, rank_pattern={"q_proj": 2},
                                     alpha_pattern={"layers.1.*": 7}), {}),
    "dora": ("llama", dict(target_modules=SEVEN[2:5], use_dora=True), {}),
    "dora-rslora-pattern": ("llama", dict(target_modules=["k_proj", "lm_head"], use_dora=True, use_rslora=True,
                                          rank_pattern={"lm_head": 3}, alpha_pattern={"0.*k_proj": 7}), {}),
    "head": ("llama", dict(target_modules=["lm_head", "q_proj"]), {}),
    "embedding": ("llama", dict(target_modules=["embed_tokens", "v_proj"], r=3, lora_alpha=7), {}),
    "embedding-alone": ("llama", dict(target_modules=["embed_tokens"], use_rslora=True), {"save_embedding_layers": False}),
    "embedding-dora": ("llama", dict(target_modules=["embed_tokens"], use_dora=True), {"save_embedding_layers": False}),
    "embedding-head-saved": ("llama", dict(target_modules=["embed_tokens", "lm_head"], r=2), {"change_base": True}),
    "embeddings-resaved": ("llama", dict(target_modules=["q_proj"], r=2), {"save_embedding_layers": True, "change_base": True}),
    "modules-to-save": ("llama", dict(target_modules=["k_proj"], modules_to_save=["lm_head", "input_layernorm"]), {}),
    "modules-to-save-block": ("llama", dict(target_modules=["q_proj", "up_proj"], modules_to_save=["layers.1.mlp"]), {}),
    "tokens-list": ("llama", dict(target_modules=["q_proj"], trainable_token_indices=[3, 30, 0, 17]), {}),
    "tokens-dict": ("llama", dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [29, 1],
                                                                                     "lm_head": [5, 2, 11]}), {}),
    "pissa-converted": ("llama", dict(target_modules=TWO, init_lora_weights="pissa"), {"convert": True}),
    "pissa-converted-rslora": ("llama", dict(target_modules=TWO, init_lora_weights="pissa_niter_4", use_rslora=True), {"convert": True}),
    "olora-converted": ("llama", dict(target_modules=TWO, r=3, init_lora_weights="olora", rank_pattern={"q_proj": 2},
                                      alpha_pattern={"down_proj": 7}), {"convert": True}),
    "adapter-fp16": ("llama", dict(target_modules=SEVEN[:4]), {"dtype": torch.float16}),
    "adapter-bf16": ("llama", dict(target_modules=SEVEN[3:]), {"dtype": torch.bfloat16}),
    "adapter-bf16-dora": ("llama", dict(target_modules=["o_proj", "up_proj"], use_dora=True), {"dtype": torch.bfloat16}),
    "conv1d": ("gpt2", dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True), {}),
    "conv1d-square-only": ("gpt2", dict(target_modules=["attn.c_proj"], fan_in_fan_out=True), {}),
    "conv1d-rslora-pattern": ("gpt2", dict(target_modules=["c_attn", "c_fc"], use_rslora=True, rank_pattern={"c_fc": 3},
                                           fan_in_fan_out=True), {}),
    # The last layer visited is an nn.Linear, so PEFT writes fan_in_fan_out = false for all of them.
    "conv1d-and-linear": ("gpt2", dict(target_modules=["c_attn", "attn.c_proj", "lm_head"]), {}),
    "conv1d-dora": ("gpt2", dict(target_modules=["c_attn", "attn.c_proj", "mlp.c_proj"], use_dora=True, fan_in_fan_out=True), {}),
    "conv1d-lora-bias": ("gpt2", dict(target_modules=["c_attn", "attn.c_proj"], lora_bias=True, fan_in_fan_out=True), {}),
    "conv1d-bias-only": ("gpt2", dict(target_modules=["c_fc"], bias="lora_only", fan_in_fan_out=True), {}),
    "conv1d-embedding": ("gpt2", dict(target_modules=["wte", "wpe", "c_attn"], r=3, fan_in_fan_out=True), {}),
    "bert-square": ("bert", dict(target_modules=["query", "value"]), {}),
    "bert-dense": ("bert", dict(target_modules=["dense"], r=3, use_rslora=True), {}),
    "bert-bias-all": ("bert", dict(target_modules=["query"], bias="all"), {}),
    "bert-bias-only": ("bert", dict(target_modules=["key", "output.dense"], bias="lora_only"), {}),
    "bert-lora-bias": ("bert", dict(target_modules=["query", "intermediate.dense"], lora_bias=True, r=7), {}),
    "bert-lora-bias-all": ("bert", dict(target_modules=["value"], lora_bias=True, bias="all", use_rslora=True), {}),
    "bert-classifier": ("bert", dict(target_modules=["query"], task_type="SEQ_CLS"), {}),
    "bert-classifier-bias-all": ("bert", dict(target_modules=["key"], task_type="SEQ_CLS", bias="all"), {}),
    "bert-dora": ("bert", dict(target_modules=["query", "intermediate.dense"], use_dora=True), {}),
    "bert-embedding": ("bert", dict(target_modules=["word_embeddings", "token_type_embeddings"], r=2), {}),
    "bert-tokens": ("bert", dict(target_modules=["value"], trainable_token_indices={"word_embeddings": [36, 7]}), {}),
    "convolutions": ("net", dict(target_modules=["conv", "pointwise", "wave", "head"], rank_pattern={"wave": 2}), {}),
    "convolutions-dora": ("net", dict(target_modules=["conv", "wave"], use_dora=True, r=3), {}),
    "convolutions-lora-bias": ("net", dict(target_modules=["conv", "head"], lora_bias=True), {}),
}


def generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(SEED * 1000 + sum(ord(letter) * (i + 1) for i, letter in enumerate(name)))


def build(model: str, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(SEED)
    net = MODELS[model]()
    net.load_state_dict(weights, strict=True)
    return net.to(dtype).eval()


def make_base(model: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(SEED)
    net, random = MODELS[model](), generator(model)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
    return {name: tensor.clone() for name, tensor in net.state_dict().items() if tensor.is_floating_point()}


@torch.no_grad()
def train(net: PeftModel, case: str, change_base: bool) -> None:
    """Random values for all that PEFT would train, and for saved embeddings where the case says so."""
    random = generator(case)
    for name, parameter in net.named_parameters():
        trained = parameter.requires_grad or any(part in name for part in ("lora_", "modules_to_save.", "trainable_tokens_delta"))
        resaved = change_base and name.endswith(("embed_tokens.weight", "embed_tokens.base_layer.weight", "lm_head.weight",
                                                 "lm_head.base_layer.weight"))
        if "magnitude" in name:
            parameter.mul_(torch.rand(parameter.shape, generator=random) + 0.5)
        elif trained or resaved:
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.2)


def write_adapter(case: str, folder: Path, weights: dict[str, torch.Tensor]) -> PeftModel:
    model, options, saving = CASES[case]
    config = LoraConfig(**{"r": 5, "lora_alpha": 12, **options})
    torch.manual_seed(SEED)
    net = get_peft_model(build(model, weights, torch.float32), config)
    if saving.get("convert"):
        initial = folder / "initial"
        # As PEFT's documentation has it: the copy that is subtracted must not mutate the base again.
        written, net.peft_config["default"].init_lora_weights = config.init_lora_weights, True
        net.save_pretrained(initial)
        net.peft_config["default"].init_lora_weights = written
    train(net, case, saving.get("change_base", False))
    if "dtype" in saving:
        for name, parameter in net.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(saving["dtype"])
    extra = {"path_initial_model_for_weight_conversion": str(folder / "initial")} if saving.get("convert") else {}
    if "save_embedding_layers" in saving:
        extra["save_embedding_layers"] = saving["save_embedding_layers"]
    net.save_pretrained(folder / "adapter", **extra)
    path = folder / "adapter/adapter_config.json"
    written = json.loads(path.read_text())
    for key in saving.get("drop", []):
        del written[key]
    written.update(saving.get("set", {}))
    # Sets are saved in the order of a hash; sorted, the file is the same in each run.
    for key in ("target_modules", "exclude_modules"):
        if isinstance(written.get(key), list):
            written[key] = sorted(written[key])
    path.write_text(json.dumps(written, indent=2, sort_keys=True))
    return net


@torch.no_grad()
def algebra(net: PeftModel, weights: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The formulas in fp64 on the loaded adapter; `weights` as the base stores them."""
    result = {name: tensor.double() for name, tensor in weights.items()}
    for key, tensor in stored.items():  # biases and embeddings that were saved whole
        name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if name in result and result[name].shape == tensor.shape:
            result[name] = tensor.double()
    for name, module in net.base_model.model.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            for key, tensor in module.modules_to_save["default"].state_dict().items():
                result[f"{name}.{key}"] = tensor.double()
        elif isinstance(module, TrainableTokensWrapper):
            rows = module.token_adapter.token_indices["default"]
            result[f"{name}.weight"][rows] = module.token_adapter.trainable_tokens_delta["default"].double()
        elif isinstance(module, LoraLayer):
            weight = result[f"{name}.weight"]
            if isinstance(module, Embedding):
                A, B, flipped = module.lora_embedding_A["default"], module.lora_embedding_B["default"], True
            else:
                A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
                flipped = isinstance(module.get_base_layer(), Conv1D)
            delta = B.double().flatten(1) @ A.double().flatten(1) * module.scaling["default"]
            sum = (weight.T if flipped else weight.flatten(1)) + delta
            if "default" in module.lora_magnitude_vector:
                norm = sum.norm(dim=1, keepdim=True)
                sum = sum * (module.lora_magnitude_vector["default"].weight.double().flatten()[:, None] / norm)
            result[f"{name}.weight"] = (sum.T if flipped else sum).reshape(weight.shape)
            if module.lora_bias["default"]:
                result[f"{name}.bias"] += module.lora_B["default"].bias.double() * module.scaling["default"]
    return result


def ulps(found: torch.Tensor, exact: torch.Tensor, dtype: str) -> float:
    """Largest distance, beyond NOISE, in units of the last place of `dtype` at the exact value."""
    exponent = torch.floor(torch.log2(exact.abs().clamp_min(SMALLEST[dtype])))
    unit = (torch.exp2(exponent) * EPSILON[dtype]).clamp_min(SMALLEST[dtype])
    return (((found.double() - exact).abs() - NOISE).clamp_min(0) / unit).max().item()


ATOMS = ["a", "b", ".", r"\.", r"\d", r"\w", r"\D", r"\W", r"\s", "[ab]", "[^a.]", "[0-9]", "(a|b)", "(?:ab|c)", "(a|)", "(?=a)",
         "(?!b)", "q_proj", "layers", "x{2}", "a{1,2}", "b{,2}", "a{2,}", "^", "$", r"\b", r"\B", "[a\\-c]", "[]a]", "{", "a{",
         "{}", "(?P<n>a)", r"\Z", r"\A", r"[\w.]", "(a*)*", "(?!.*b)", "(?=.*(a|x))", r"[^\W_]"]
QUANTIFIERS = ["", "", "", "*", "+", "?", "*?", "+?", "??", "{0,3}", "{2}"]
UNREPEATED = {"^", "$", r"\b", r"\B", r"\Z", r"\A", "{", "{}", "a{"}

MODULES = ["lm_head", "model.embed_tokens", "model.norm", *(f"model.layers.{i}.{name}" for i in (0, 1, 10) for name in
           ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "mlp.experts.3.w1", "mlp.experts.1.w1.0", "input_layernorm")),
           "h.0.attn.c_attn", "transformer.h.1.attn.c_proj", "transformer.h.1.mlp.c_proj", "encoder.layer.1.attention.self.query",
           "vision.blocks.0.layers.1.q_proj", "my_score", "score", "score.dense", "blocks.1.0"]
TARGETS = [
    dict(target_modules=["q_proj"]), dict(target_modules=["self_attn.q_proj", "score"]), dict(target_modules=["proj"]),
    dict(target_modules=["lm_head", "w1", "0"]), dict(target_modules=".*"), dict(target_modules="q_proj"),
    dict(target_modules=r".*\.(q|k)_proj"), dict(target_modules=r"model\.layers\.\d\..*proj"),
    dict(target_modules=r"^(?!.*experts).*(q_proj|w1)$"), dict(target_modules=r".*layers\.(?:0|10)\.mlp\.experts\.\d+\.w1"),
    dict(target_modules=r"q_proj|.*c_attn"), dict(target_modules=r"(?=model).*_proj"), dict(target_modules=[]),
    dict(target_modules=["q_proj", "w1"], exclude_modules=["layers.1.self_attn.q_proj", "experts.3.w1"]),
    dict(target_modules=["q_proj", "w1"], exclude_modules=r".*\.1\..*"), dict(target_modules=".*", exclude_modules="score"),
    dict(target_modules=["q_proj"], exclude_modules=""), dict(target_modules=["q_proj"], exclude_modules=[]),
    dict(target_modules=["q_proj", "score", "dense"], modules_to_save=["score"]),
    dict(target_modules=["q_proj", "w1"], modules_to_save=["mlp"]), dict(target_modules=[".*", "w1"], modules_to_save=["l.yers.1"]),
    dict(target_modules=["q_proj", "w1"], layers_to_transform=[1]), dict(target_modules=["q_proj", "w1"], layers_to_transform=1),
    dict(target_modules=["q_proj", "w1", "0"], layers_to_transform=[0, 10]),
    dict(target_modules=["q_proj", "model.layers.0.self_attn.k_proj"], layers_to_transform=[1]),
    dict(target_modules=["c_proj", "c_attn", "query"], layers_to_transform=[0, 1]),
    dict(target_modules=["c_proj", "c_attn", "q_proj"], layers_to_transform=[0, 1], layers_pattern="h"),
    dict(target_modules=["w1", "q_proj", "query"], layers_to_transform=[1], layers_pattern=["experts", "layer", "layers"]),
    dict(target_modules=["w1", "q_proj"], layers_to_transform=[3], layers_pattern="experts"),
    dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="l.yers"),
    dict(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern="blocks"),
    dict(target_modules=["lm_head", "q_proj"], layers_to_transform=[]), dict(target_modules=["0"], layers_to_transform=[1]),
]
VALUES = [{"q_proj": 1}, {".*": 1, "q_proj": 2}, {"layers.1.": 1}, {"^model.layers.[01].*": 1, "w1": 2}, {r"experts\.\d+\.w1": 3, "w1": 4},
          {"proj|w1": 5}, {"a|score": 6}, {"sc.re": 7}, {"score$": 8}, {"(model|h).*": 9}, {"model": 1, "model.norm": 2}, {"l.*d": 3}]


def write_patterns() -> None:
    source, regexes = random.Random(SEED), []
    while len(regexes) < 3000:
        pattern = ""
        for _ in range(source.randint(1, 6)):
            atom = source.choice(ATOMS)
            pattern += atom + (source.choice(QUANTIFIERS) if atom not in UNREPEATED else "") + ("|" if source.random() < 0.1 else "")
        text = "".join(source.choice("aabbc.0_19x{} ") for _ in range(source.randint(0, 7)))
        try:
            regexes.append([pattern, text, bool(re.fullmatch(pattern, text)), bool(re.match(pattern, text))])
        except re.error:
            continue
    targets = [{"config": {"peft_type": "LORA", **options},
                "covers": [name for name in MODULES if check_target_module_exists(LoraConfig(**options), name)]} for options in TARGETS]
    values = [{"pattern": pattern, "values": [pattern.get(get_pattern_key(pattern.keys(), name)) for name in MODULES]} for pattern in VALUES]
    (OUT / "patterns.json").write_text(json.dumps({"regexes": regexes, "modules": MODULES, "targets": targets, "values": values}) + "\n")


def bytes_of(path: Path) -> torch.Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def main() -> None:
    found = {name: importlib.metadata.version(name).split("+")[0] for name in PINNED}
    assert found == PINNED, f"the oracle is pinned to {PINNED}, not {found}"
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "base").mkdir(parents=True)
    bases = {model: make_base(model) for model in MODELS}
    for model, weights in bases.items():
        for dtype, torch_dtype in DTYPES.items():
            save_file({name: tensor.to(torch_dtype) for name, tensor in weights.items()},
                      OUT / f"base/{model}-{dtype}.safetensors")
    adapters, results, exact, cases = {}, {}, {}, {}
    for case, (model, _, _) in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            trained = write_adapter(case, folder, bases[model])
            stored = load_file(folder / "adapter/adapter_model.safetensors")
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                adapters[f"{case}/{file}"] = bytes_of(folder / "adapter" / file)
            about = {"model": model, "peft": {}}
            for dtype, torch_dtype in DTYPES.items():
                weights = {name: tensor.to(torch_dtype) for name, tensor in bases[model].items()}
                net = PeftModel.from_pretrained(build(model, weights, torch_dtype), folder / "adapter")
                formula = algebra(net, weights, stored)
                merged = net.merge_and_unload().state_dict()
                changed = [name for name, tensor in weights.items() if not torch.equal(merged[name].to(torch_dtype), tensor)]
                worst = 0.0
                for name in changed:
                    results[f"{case}/{dtype}/{name}"] = merged[name].to(torch_dtype).contiguous()
                    absolute = (merged[name].double() - formula[name]).abs().max().item()
                    distance = ulps(merged[name], formula[name], dtype)
                    assert dtype != "F32" or absolute < 1e-5, f"{case}: {name} is {absolute} from the formula"
                    worst = max(worst, absolute if dtype == "F32" else distance)
                    # One rounding is half a unit away; a second one, of the delta, is not bounded by the unit of the sum.
                    if dtype != "F32" and distance > 1:
                        exact[f"{case}/{dtype}/{name}"] = formula[name].contiguous()
                for name in set(weights) - set(changed):
                    assert ulps(weights[name], formula[name], dtype) == 0, f"{case}: PEFT did not change {name}"
                assert changed, case
                about["peft"][dtype] = {"changed": len(changed), "worst": float(f"{worst:.2g}")}
                if dtype == "F32" and "dtype" not in CASES[case][2]:  # the folder says what was trained
                    for name, tensor in trained.merge_and_unload().state_dict().items():
                        assert torch.allclose(tensor, merged[name], atol=1e-5), f"{case}: the saved {name} differs"
            cases[case] = about
            print(case, about)
    save_file(adapters, OUT / "adapters.safetensors")
    save_file(results, OUT / "results.safetensors")
    save_file(exact or {"none": torch.zeros(0)}, OUT / "algebra.safetensors")
    (OUT / "oracle.json").write_text(json.dumps({
        "command": "python test/parity/peft-oracle.py",
        "versions": {"python": platform.python_version(), **found},
        "cases": cases,
    }, indent=1) + "\n")
    write_patterns()
    size = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    assert size < 4_000_000, f"{size} bytes"
    print(len(cases) * len(DTYPES), "cases,", size, "bytes,", len(exact), "tensors where PEFT rounds twice")


if __name__ == "__main__":
    main()
