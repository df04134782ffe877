"""LoRAs are on the upper blocks alone, so what the lower ones make of a text is computed once."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

FIRST = 20  # the first block of the 30 that has a LoRA
IGNORED = -100  # of the labels, what is no answer
_AT_ONCE = 16


def in_bfloat16() -> AbstractContextManager[object]:
    """Matrix products in bfloat16, which this kind of machine does twice as fast."""
    return torch.autocast("cpu", torch.bfloat16)


@torch.no_grad()
def below(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """What the lower blocks make of some rows of tokens, N x T -> N x T x D."""
    with _having(model, model.model.layers[:FIRST], nn.Identity()), in_bfloat16():
        some = [model.model(input_ids=t, use_cache=False) for t in tokens.split(_AT_ONCE)]
    return torch.cat([part.last_hidden_state.float() for part in some])


def loss_of(model: LlamaForCausalLM, lower: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the tokens that are labels, in nats.

    Args:
        lower: of `below`, N x T x D.
        labels: N x T; IGNORED where there is none.
    """
    with _having(model, model.model.layers[FIRST:], model.model.norm):
        hidden = model.model(inputs_embeds=lower, use_cache=False).last_hidden_state[:, :-1]
    is_label = labels[:, 1:] != IGNORED
    return cross_entropy(model.lm_head(hidden[is_label]).float(), labels[:, 1:][is_label])


@contextmanager
def _having(model: LlamaForCausalLM, layers: nn.ModuleList, norm: nn.Module) -> Iterator[None]:
    own = model.model.layers, model.model.norm
    model.model.layers, model.model.norm = layers, norm
    try:
        yield
    finally:
        model.model.layers, model.model.norm = own
