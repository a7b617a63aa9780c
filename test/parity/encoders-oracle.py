"""Write the parity oracle of encoders: what transformers, PEFT and sentence-transformers compute, in fp32 on the CPU.

    python test/parity/encoders-oracle.py tiny          # random weights -> test/parity/oracle/encoders/
    python test/parity/encoders-oracle.py minilm DIR    # all-MiniLM-L6-v2 in DIR -> .../encoders/minilm.json
"""
import importlib.metadata
import json
import platform
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (BertConfig, BertForSequenceClassification, BertModel, ModernBertConfig,
                          ModernBertForSequenceClassification, ModernBertModel)

OUT = Path(__file__).resolve().parent / "oracle/encoders"
LENGTHS = [17, 1, 6]  # padded to the longest in one batch
LABELS = {0: "calm", 1: "urgent", 2: "angry"}

BERT = BertConfig(vocab_size=97, hidden_size=20, num_hidden_layers=2, num_attention_heads=5, intermediate_size=34,
                  max_position_embeddings=41, type_vocab_size=3, layer_norm_eps=3e-3, initializer_range=0.25)
# The window of local attention reaches 3 tokens to either side; layers 0 and 3 are global.
MODERN = ModernBertConfig(vocab_size=97, hidden_size=20, num_hidden_layers=4, num_attention_heads=5,
                          intermediate_size=14, max_position_embeddings=37, norm_eps=3e-3, local_attention=6,
                          global_attn_every_n_layers=3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                          cls_token_id=1, sep_token_id=2, initializer_range=0.25, initializer_cutoff_factor=3.0)


def variant(config, **changes):
    return type(config)(**{**config.to_dict(), **changes})


MODELS = {
    "bert": (BertModel, BERT),
    "bert-classifier": (BertForSequenceClassification, variant(BERT, id2label=LABELS, hidden_act="gelu_new")),
    "modernbert": (ModernBertModel, MODERN),
    "modernbert-classifier": (ModernBertForSequenceClassification,
                              variant(MODERN, id2label=LABELS, classifier_pooling="mean", classifier_bias=True)),
}
# alpha / r is 12 / 5, and the ranks differ; "wide" is on every linear.
ADAPTERS = {
    "narrow": {"bert": ["query", "value"], "modernbert": ["Wqkv"], "r": 5, "alpha": 12},
    "wide": {"bert": "all-linear", "modernbert": "all-linear", "r": 3, "alpha": 7, "rslora": True},
}


def randomise(model, scale):
    """Norms and biases that start at 1 and 0 would hide that they are left out."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += scale * torch.randn_like(parameter)


def batch(vocab_size):
    longest = max(LENGTHS)
    ids = torch.zeros(len(LENGTHS), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.randint(3, vocab_size, (length,))
        mask[row, :length] = 1
        types[row, length // 2:length] = 1
    return ids, mask, types


def run(model, family, ids, mask, types):
    feeds = {"input_ids": ids, "attention_mask": mask}
    if family == "bert":
        feeds["token_type_ids"] = types
    with torch.no_grad():
        outputs = model(**feeds)
    kept = {}
    if "last_hidden_state" in outputs:
        hidden = outputs.last_hidden_state
        # What stands at padding is nobody's.
        kept["last_hidden_state"] = [hidden[row, :length].flatten().tolist() for row, length in enumerate(LENGTHS)]
    if getattr(outputs, "pooler_output", None) is not None:
        kept["pooler_output"] = outputs.pooler_output.tolist()
    if "logits" in outputs:
        kept["logits"] = outputs.logits.tolist()
    return kept


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return {key: rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def versions(*packages):
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


# Each mode alone, and all side by side.
POOLINGS = {"cls": "cls", "max": "max", "mean": "mean", "mean_sqrt_len": "mean_sqrt_len_tokens",
            "all": ["cls", "max", "mean", "mean_sqrt_len_tokens"]}


def pooled(model, ids, mask, types):
    """Left-padded too: the first token of a text need not be the first of its row."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def flipped(rows):
        return torch.stack([torch.roll(row, len(row) - length) for row, length in zip(rows, LENGTHS)])

    answers = {}
    for side, (i, m, t) in {"right": (ids, mask, types), "left": (flipped(ids), flipped(mask), flipped(types))}.items():
        with torch.no_grad():
            hidden = model(input_ids=i, attention_mask=m, token_type_ids=t).last_hidden_state
        for name, mode in POOLINGS.items():
            features = {"token_embeddings": hidden, "attention_mask": m}
            vectors = Pooling(hidden.shape[-1], mode)(features)["sentence_embedding"]
            unit = Normalize()({"sentence_embedding": vectors})["sentence_embedding"]
            answers[f"{side} {name}"] = {"plain": vectors.tolist(), "unit": unit.tolist()}
    return answers


def tiny():
    shutil.rmtree(OUT / "tiny", ignore_errors=True)
    for seed, (name, (make, config)) in enumerate(MODELS.items()):
        torch.manual_seed(20261124 + seed)
        family = name.split("-")[0]
        is_classifier = name.endswith("classifier")
        folder = OUT / "tiny" / name
        model = make(config).eval()
        randomise(model, 0.2)
        model.save_pretrained(folder)
        ids, mask, types = batch(config.vocab_size)
        answers = {"base": run(model, family, ids, mask, types)}
        for adapter, spec in ADAPTERS.items():
            lora = LoraConfig(r=spec["r"], lora_alpha=spec["alpha"], use_rslora=spec.get("rslora", False),
                              target_modules=spec[family], task_type="SEQ_CLS" if is_classifier else None)
            tuned = get_peft_model(make.from_pretrained(folder), lora).eval()
            for key, parameter in tuned.named_parameters():
                if "lora_" in key:
                    torch.nn.init.normal_(parameter, std=0.2)
                elif "modules_to_save" in key:
                    parameter.data += 0.3 * torch.randn_like(parameter)
            path = folder / "adapters" / adapter
            tuned.save_pretrained(path)
            (path / "README.md").unlink(missing_ok=True)
            settings = path / "adapter_config.json"
            written = json.loads(settings.read_text())
            written["base_model_name_or_path"] = name
            settings.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
            loaded = PeftModel.from_pretrained(make.from_pretrained(folder), path).eval()
            answers[adapter] = run(loaded, family, ids, mask, types)
            merged = loaded.merge_and_unload().eval()
            answers[f"{adapter} merged"] = run(merged, family, ids, mask, types)
        (folder / "answers.json").write_text(json.dumps(rounded({
            "versions": versions("torch", "transformers", "peft", "sentence-transformers"),
            "lengths": LENGTHS, "input_ids": ids.tolist(), "token_type_ids": types.tolist(), "answers": answers,
            **({"pooled": pooled(model, ids, mask, types)} if name == "bert" else {}),
        })) + "\n")


SENTENCES = [
    "The printer is on fire.", "A fire has broken out in the office equipment.", "Payment is due within thirty days.",
    "We agreed that damages are limited to the fees.", "The cat sat on the mat.", "naïve café, Ünïcödé & 日本語",
    "", " ", "a", "WHY IS EVERYTHING IN CAPITALS?", "1234567890 and 3.14159", "It's we'll I'M they've",
    "In the beginning God created the heaven and the earth.", "🙂 emoji 🇳🇴", "snake_case CamelCase", "two\nlines",
    "A tab\there and   many   spaces", "Supercalifragilisticexpialidocious antidisestablishmentarianism",
    "The quick brown fox jumps over the lazy dog. " * 8, "word " * 400,
]


def minilm(path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    tokens = model.tokenizer(SENTENCES, truncation=True, max_length=model.max_seq_length)["input_ids"]
    vectors = model.encode(SENTENCES, batch_size=len(SENTENCES), convert_to_numpy=True)
    (OUT / "minilm.json").write_text(json.dumps(rounded({
        "versions": versions("torch", "transformers", "sentence-transformers"),
        "sentences": SENTENCES, "input_ids": tokens, "embeddings": vectors.tolist(),
    }), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"tiny": tiny, "minilm": minilm}[sys.argv[1]](*sys.argv[2:])
