"""Two weights of other widths: what is alike in their subspaces, and in which signs (experimental).

Between widths there is no angle between two subspaces, so Eq. 1 says nothing: any k directions can
be taken to any k others. What can be compared is the spectra. That is little: it tells a weight
with few strong directions from a flat one, not what the directions mean.
"""

import math
from dataclasses import replace

import torch

from .subspace import Similarity, Subspace, overlap


def similarity_across(source: Subspace, target: Subspace) -> Similarity:
    """Eq. 1 on a side of one width; on the other, the cosine of the paired singular values.

    The cosine is 1 for spectra of one shape. What chance gives is not known, and stated as NaN.
    """
    left, left_chance = _side(source.U, target.U, source, target)
    right, right_chance = _side(source.V, target.V, source, target)
    return Similarity(left, right, left_chance, right_chance)


def _side(
    ours: torch.Tensor, theirs: torch.Tensor, source: Subspace, target: Subspace
) -> tuple[float, float]:
    if ours.shape[0] == theirs.shape[0]:
        return overlap(ours, theirs), max(source.rank, target.rank) / ours.shape[0]
    k = min(source.rank, target.rank)
    values, others = source.shares[:k].sqrt(), target.shares[:k].sqrt()
    cosine = float(torch.nn.functional.cosine_similarity(values, others, dim=0)) if k else 0.0
    return min(cosine, 1.0), math.nan  # rounding alone goes above 1


def with_signs(source: Subspace, target: Subspace) -> tuple[Subspace, Subspace]:
    """The same subspaces, their vectors in signs that both models would choose alike.

    A pair of singular vectors has two signs. Where the i-th of one model is taken to the i-th of
    another of the same width, the sign cancels; between widths it does not. So each is turned until
    its entries, cubed, add up to more than 0: the longer tail points up.
    """
    by_left = source.U.shape[0] != target.U.shape[0]
    return _turned(source, by_left), _turned(target, by_left)


def _turned(subspace: Subspace, by_left: bool) -> Subspace:
    side = subspace.U if by_left else subspace.V
    signs = torch.where(side.pow(3).sum(dim=0) < 0, -1.0, 1.0).to(side.dtype)
    return replace(subspace, U=subspace.U * signs, V=subspace.V * signs)
