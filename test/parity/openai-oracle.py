"""Write what transformers and torch compute of the demo for the fields of OpenAI's API: log-probabilities of prompts and
answers, penalties and biases as OpenAI and vLLM document them, and a chat template with tools.

    python test/parity/openai-oracle.py    # examples/demo -> test/parity/oracle/openai.json
"""
import importlib.metadata
import json
import platform
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "examples/demo/base"
OUT = ROOT / "test/parity/oracle/openai.json"
TOP = 4
TOKENS = 40

PROMPT = "In the beginning God created the heaven and the"
# Bytes of an emoji that are tokens of their own, so that a token is no whole character.
SCORED = "The bill 🙂 is due."
CASES = {
    "plain": {},
    "frequency": {"frequency_penalty": 1.5},
    "presence": {"presence_penalty": 2.0},
    "both": {"frequency_penalty": 0.8, "presence_penalty": -0.75},
    "bias": {"logit_bias": "first"},
    "all": {"frequency_penalty": 0.9, "presence_penalty": 0.4, "logit_bias": "first"},
}

TEMPLATE = (
    "{% if tools %}Functions:{% for tool in tools %} {{ tool.function | tojson }}{% endfor %}\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{\"name\": \"{{ call.function.name }}\", \"arguments\": "
    "{{ call.function.arguments | tojson }}}</tool_call>{% endfor %}"
    "{% if m.tool_call_id %} (of {{ m.tool_call_id }}){% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TOOLS = [{"type": "function", "function": {
    "name": "look_up", "description": "Finds an order.",
    "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}, "required": ["order"]}}}]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is order 17?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": {"order": 17}}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "on its way"},
]


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids])).logits[0].double()


def describe(row, chosen):
    """log softmax of the raw logits: that of the token, and the most probable ones."""
    logprobs = torch.log_softmax(row, -1)
    values, ids = torch.topk(logprobs, TOP)
    return {"id": chosen, "logprob": logprobs[chosen].item(),
            "top": [[i, v] for i, v in zip(ids.tolist(), values.tolist())]}


def greedy(model, prompt, frequency_penalty=0.0, presence_penalty=0.0, logit_bias=None):
    found, steps, margin = [], [], float("inf")
    for _ in range(TOKENS):
        raw = logits(model, prompt + found)[-1]
        counts = torch.bincount(torch.tensor(found, dtype=torch.long), minlength=len(raw)).double()
        adjusted = raw - counts * frequency_penalty - (counts > 0).double() * presence_penalty
        for token, bias in (logit_bias or {}).items():
            adjusted[int(token)] += bias
        best = torch.topk(adjusted, 2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        found.append(best.indices[0].item())
        steps.append(describe(raw, found[-1]))
        if found[-1] == 2:
            break
    return {"ids": found, "steps": steps, "margin": margin}


def main():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager").eval()
    prompt = tokenizer(PROMPT)["input_ids"]
    plain = greedy(model, prompt)
    # The first token of the plain answer may not be said any more, another is said whatever comes.
    bias = {str(plain["ids"][0]): -100.0, str(plain["ids"][3]): 6.5}
    cases = {}
    for name, fields in CASES.items():
        fields = {**fields, **({"logit_bias": bias} if "logit_bias" in fields else {})}
        found = greedy(model, prompt, **fields)
        if found["margin"] < 1e-3:
            raise SystemExit(f"{name}: two tokens are {found['margin']} apart; change the case")
        text = tokenizer.decode(found["ids"], skip_special_tokens=True)
        steps = found["steps"][:8] if name in ("plain", "all") else []
        cases[name] = {"fields": fields, "ids": found["ids"], "text": text, "steps": steps}
    scored = tokenizer(SCORED)["input_ids"]
    rows = logits(model, scored)
    rendered = tokenizer.apply_chat_template(MESSAGES, tools=TOOLS, chat_template=TEMPLATE, tokenize=False,
                                             add_generation_prompt=True)
    result = {
        "command": "python test/parity/openai-oracle.py",
        "versions": {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in
                     ("torch", "transformers", "tokenizers")}},
        "prompt": {"text": PROMPT, "ids": prompt},
        "cases": cases,
        "scored": {"text": SCORED, "ids": scored,
                   "steps": [describe(rows[at - 1], scored[at]) for at in range(1, len(scored))]},
        "tools": {"template": TEMPLATE, "tools": TOOLS, "messages": MESSAGES, "text": rendered,
                  "ids": tokenizer(rendered, add_special_tokens=False)["input_ids"]},
    }
    OUT.write_text(json.dumps(result, ensure_ascii=True, separators=(",", ":")) + "\n")


main()
