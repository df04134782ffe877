"""English that comes with Python: what the target is tuned on, the task, and text that is neither.

The task: the body of a docstring of the standard library is given, its first sentence is asked for.
Modules are held out whole, so that no answer was seen in a neighbouring function.
"""

import ast
import html
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import PreTrainedTokenizerFast

from .upper import IGNORED

LIBRARY = Path(os.__file__).parent
PROMPT_TOKENS, ANSWER_TOKENS = 32, 16  # a task's example at most
_PASSED_OVER = {"site-packages", "test", "tests", "lib2to3", "idlelib", "pydoc_data"}
_HELD_OUT = 4  # one module of as many
_ENDS = "\nSummary:"


@dataclass(frozen=True)
class Example:
    """One of the task, as tokens.

    Attributes:
        answer: with the token that ends it.
        text: the answer.
    """

    prompt: list[int]
    answer: list[int]
    text: str


def reference() -> str:
    """Python's language reference as `help()` shows it, which the target is tuned on."""
    return "\n\n".join(topics[name] for name in sorted(topics))


def other() -> str:
    """The help of IDLE, which nothing is trained on."""
    page = (LIBRARY / "idlelib" / "help.html").read_text(encoding="utf-8")
    body = re.sub(r"(?s)<(script|style|head).*?</\1>|<[^>]+>", "", page)
    return re.sub(r"\n\s*\n+", "\n\n", html.unescape(body)).strip()


def rows_of(text: str, tokenizer: PreTrainedTokenizerFast, length: int) -> torch.Tensor:
    """A text cut into rows of tokens, the rest left out: N x length."""
    tokens = tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]
    return tokens[: len(tokens) // length * length].view(-1, length)


def examples(tokenizer: PreTrainedTokenizerFast) -> tuple[list[Example], list[Example]]:
    """The task's examples to learn from, and those held out; both shuffled, always alike."""
    halves: tuple[list[Example], list[Example]] = [], []
    for module, first, body in _docstrings():
        held_out = random.Random(module).randrange(_HELD_OUT) == 0
        prompt = tokenizer(body).input_ids[: PROMPT_TOKENS - 4] + tokenizer(_ENDS).input_ids
        answer = [*tokenizer(f" {first}").input_ids, tokenizer.eos_token_id]
        if len(answer) <= ANSWER_TOKENS:
            halves[held_out].append(Example(prompt, answer, first))
    for half in halves:
        random.Random(0).shuffle(half)
    return halves


def batch_of(some: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels, B x T, padded on the right; the answers alone are labels."""
    length = max(len(one.prompt) + len(one.answer) for one in some)
    tokens = torch.full((len(some), length), pad)
    labels = torch.full((len(some), length), IGNORED)
    for row, one in enumerate(some):
        start, end = len(one.prompt), len(one.prompt) + len(one.answer)
        tokens[row, :end] = torch.tensor(one.prompt + one.answer)
        labels[row, start:end] = torch.tensor(one.answer)
    return tokens, labels


def _docstrings() -> Iterator[tuple[str, str, str]]:
    """Module, first sentence and body of the docstrings that have both, no sentence twice."""
    seen: set[str] = set()
    for path in sorted(LIBRARY.rglob("*.py")):
        module = path.relative_to(LIBRARY)
        if _PASSED_OVER & set(module.parts):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            first, _, body = (ast.get_docstring(node) or "").partition("\n\n")
            body = " ".join(body.split())
            whole = re.fullmatch(r"[A-Z][^\n]{18,98}\.", first)
            if whole and len(body) > 80 and first not in seen:
                seen.add(first)
                yield str(module), first, body
