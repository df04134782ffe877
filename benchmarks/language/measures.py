"""What a model is worth: the loss of held-out answers, ROUGE-L of its own, other text's loss."""

import copy
from collections.abc import Iterator
from statistics import mean

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .text import ANSWER_TOKENS, Example
from .upper import loss_of

_AT_ONCE = 16

# What the lower blocks made of some rows, and the labels.
Lower = tuple[torch.Tensor, torch.Tensor]


@torch.inference_mode()
def measured(
    model: LlamaForCausalLM,
    answers: Lower,
    other: Lower,
    generated: list[Example],
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, float]:
    """The columns of the results. The model runs in bfloat16, which is twice as fast here."""
    model = copy.deepcopy(model).bfloat16().eval()
    return {
        "loss": float(loss_of(model, answers[0].bfloat16(), answers[1])),
        "rouge": rouge(model, generated, tokenizer),
        "other": float(loss_of(model, other[0].bfloat16(), other[1])),
    }


def rouge(
    model: LlamaForCausalLM, examples: list[Example], tokenizer: PreTrainedTokenizerFast
) -> float:
    """ROUGE-L (Lin 2004, its F measure) of the answers that the model gives, greedily."""
    from rouge_score.rouge_scorer import RougeScorer  # the one thing here that needs it

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
