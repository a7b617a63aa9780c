"""Write what transformers and PEFT compute of the tiny BERT for /v1/embeddings: texts through a WordPiece tokenizer,
mean over the tokens, divided by the length of the vector; each text alone, without padding.

    python test/parity/embeddings-oracle.py    # oracle/encoders/tiny/bert -> oracle/encoders/embeddings.json
"""
import importlib.metadata
import json
import platform
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertModel

ROOT = Path(__file__).resolve().parents[2] / "test/parity/oracle/encoders"
BERT = ROOT / "tiny/bert"
TEXTS = ["a cab", "Bad decade faced cafe", "e", "bead, bead; a faded bead!", "cabbage \u00e9 dab", "fee fed cede ace add bee",
         "g", "abc def gab bag fad dab cab dad deb fab gad beg ebb age"]
CHARS = "abcdefg"


def vocabulary():
    """97 tokens: marks, punctuation, characters, their continuations, and pairs."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ",", ";", "!"]
    words += list(CHARS) + [f"##{c}" for c in CHARS]
    words += [a + b for a in CHARS for b in CHARS][: 97 - len(words)]
    words += [f"##{a}{b}" for a in CHARS for b in CHARS][: 97 - len(words)]
    return {word: index for index, word in enumerate(words)}


def tokenizer():
    vocab = vocabulary()
    made = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix="##"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
                                                        special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return made


@torch.no_grad()
def embed(model, ids):
    hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(0), dim=0).tolist()


def main():
    made = tokenizer()
    rows = [made.encode(text).ids for text in TEXTS]
    load = lambda: BertModel.from_pretrained(BERT, dtype=torch.float32, attn_implementation="eager").eval()
    variants = {"base": load()}
    for name in ("narrow", "wide"):
        variants[name] = PeftModel.from_pretrained(load(), BERT / "adapters" / name).eval()
    result = {
        "command": "python test/parity/embeddings-oracle.py",
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in
                     ("torch", "transformers", "peft", "tokenizers")}},
        "tokenizer": json.loads(made.to_str()),
        "texts": TEXTS,
        "ids": rows,
        "vectors": {name: [embed(model, ids) for ids in rows] for name, model in variants.items()},
    }
    (ROOT / "embeddings.json").write_text(json.dumps(result, ensure_ascii=True, separators=(",", ":")) + "\n")


main()
