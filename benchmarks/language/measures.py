"""What a model is worth: the loss of held-out answers, ROUGE-L of its own, other text's loss."""

import copy
from collections.abc import Iterator
from statistics import mean

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .setting import Setting
from .text import ANSWER_TOKENS, IGNORED, Example, batch_of

_AT_ONCE = 16


def measured(model: LlamaForCausalLM, setting: Setting) -> dict[str, float]:
    """The columns of the results. The model runs in bfloat16, which is twice as fast here."""
    model = copy.deepcopy(model).bfloat16().eval()
    held_out = setting.task[1][: setting.answers]
    tokenizer = setting.tokenizer
    with torch.inference_mode():
        return {
            "loss": answer_loss(model, held_out, tokenizer.pad_token_id),
            "rouge": rouge(model, held_out[: len(held_out) // 3], tokenizer),
            "other": text_loss(model, setting.other),
        }


def answer_loss(model: LlamaForCausalLM, examples: list[Example], pad: int) -> float:
    """Cross entropy of a token of the answers, in nats, over all of their tokens."""
    total, count = 0.0, 0
    for some in _portions(examples):
        tokens, labels = batch_of(some, pad)
        hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        is_answer = wanted != IGNORED
        logits = model.lm_head(hidden[is_answer]).float()
        total += float(cross_entropy(logits, wanted[is_answer], reduction="sum"))
        count += int(is_answer.sum())
    return total / count


@torch.inference_mode()
def text_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    """Cross entropy of a token of plain text, in nats; rows are N x T."""
    return mean(float(model(input_ids=some, labels=some).loss) for some in rows.split(_AT_ONCE))


def rouge(
    model: LlamaForCausalLM, examples: list[Example], tokenizer: PreTrainedTokenizerFast
) -> float:
    """ROUGE-L (Lin 2004, its F measure) of the answers that the model gives, greedily."""
    scorer = RougeScorer(["rougeL"])
    scores = []
    for some in _portions(examples):
        texts = _answers(model, some, tokenizer)
        scores += [
            scorer.score(one.text, text)["rougeL"].fmeasure
            for one, text in zip(some, texts, strict=True)
        ]
    return mean(scores)


def _answers(
    model: LlamaForCausalLM, examples: list[Example], tokenizer: PreTrainedTokenizerFast
) -> list[str]:
    """Prompts are padded on the left, so that all end where the answers begin."""
    length = max(len(one.prompt) for one in examples)
    pad = tokenizer.pad_token_id
    rows = [[pad] * (length - len(one.prompt)) + one.prompt for one in examples]
    mask = [[0] * (length - len(one.prompt)) + [1] * len(one.prompt) for one in examples]
    found = model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        pad_token_id=pad,
    )
    return [text.strip() for text in tokenizer.batch_decode(found[:, length:], True)]


def _portions(examples: list[Example]) -> Iterator[list[Example]]:
    for start in range(0, len(examples), _AT_ONCE):
        yield examples[start : start + _AT_ONCE]
