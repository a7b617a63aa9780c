"""A small SentencePiece model as GGUF keeps it, and the ids that SentencePiece itself gives for some texts.

Run by hand: `pip install sentencepiece; python test/gguf/sentence-pieces-oracle.py > test/gguf/sentence-pieces.json`.
"""
import importlib.metadata
import io
import json
from pathlib import Path

import sentencepiece

inputs = json.loads((Path(__file__).parent / "../parity/oracle/smollm2/inputs.json").read_text())
made = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(inputs["passage"].split("\n") * 3),
    model_writer=made,
    model_type="bpe",
    vocab_size=700,
    byte_fallback=True,
    normalization_rule_name="identity",
    add_dummy_prefix=True,
    remove_extra_whitespaces=False,
    split_digits=True,
    allow_whitespace_only_pieces=True,
    minloglevel=2,
)
pieces = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def kind(i: int) -> int:
    tests = [(pieces.is_unknown, 2), (pieces.is_control, 3), (pieces.is_unused, 5), (pieces.is_byte, 6)]
    return next((number for test, number in tests if test(i)), 1)


ids = range(pieces.get_piece_size())
# SentencePiece replaces U+0000, which no tokenizer.json does.
texts = [text for text in inputs["texts"] if "\0" not in text and text != ""] + inputs["prompts"][:12]
print(
    json.dumps(
        {
            "versions": {"sentencepiece": importlib.metadata.version("sentencepiece")},
            "tokens": [pieces.id_to_piece(i) for i in ids],
            "scores": [pieces.get_score(i) for i in ids],
            "types": [kind(i) for i in ids],
            "encoded": [{"text": text, "ids": pieces.encode(text)} for text in texts],
        },
        indent=0,
    )
)
