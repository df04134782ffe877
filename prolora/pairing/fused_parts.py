"""Weights that one model keeps fused and another splits, found by the names of their modules.

The rows of a fused weight are its parts, in the order given here: qkv is q, then k, then v.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from ..models.references import Slice
from .module_tree import Node

_QKV = ("qkv", "to_qkv", "qkv_proj", "in_proj", "in_proj_weight", "Wqkv", "wqkv", "c_attn")
_KV = ("kv", "to_kv", "kv_proj", "wkv", "kv_linear")
_GATE_UP = ("gate_up_proj", "gate_up", "w13", "w1_w3")
_Q_K_V = ("to_{}", "{}", "{}_proj", "w{}", "{}_linear", "linear_{}")

# Name of the whole -> names of its parts.
_FUSED = (
    *product(_QKV, [tuple(name.format(part) for part in "qkv") for name in _Q_K_V]),
    *product(_QKV, [("query", "key", "value")]),
    *product(_KV, [tuple(name.format(part) for part in "kv") for name in _Q_K_V]),
    *product(_KV, [("key", "value")]),
    *product(_GATE_UP, [("gate_proj", "up_proj"), ("gate", "up"), ("w1", "w3")]),
)


@dataclass(frozen=True)
class FusedPart:
    """A part of a fused weight.

    Attributes:
        whole: the module of the fused weight, in one model.
        part: the module of the part, in the other model.
        rows: the part's rows of the fused weight.
    """

    whole: Node
    part: Node
    rows: Slice


def fused_parts(fused: Mapping[str, Node], split: Mapping[str, Node]) -> Iterator[FusedPart]:
    """The parts of every weight in `fused` that is split in `split`.

    The shapes must agree: the parts have the inputs of the fused weight, and add up to its rows.

    Args:
        fused, split: name -> module, for the same place in the two models.
    """
    taken: set[str] = set()
    for name, names in _FUSED:
        if name not in fused or any(part not in split or part in taken for part in names):
            continue
        whole, parts = fused[name], [split[part] for part in names]
        inputs = {part.shape[1:] for part in parts}
        rows = sum(part.shape[0] for part in parts if part.shape)
        if len(whole.shape) < 2 or whole.shape != (rows, *whole.shape[1:]):
            continue
        if inputs != {whole.shape[1:]}:
            continue
        taken |= {name, *names}
        start = 0
        for part in parts:
            yield FusedPart(whole, part, Slice(dim=0, start=start, length=part.shape[0]))
            start += part.shape[0]
