"""Subspaces of two weights whose widths differ: their similarity and their signs (experimental).

Eq. 1 is not defined between different widths: two subspaces have no angle there, and a map can take
any k directions to any k others. Only the spectra can be compared. A spectrum tells a weight with
few strong directions from a flat one, but not what the directions mean.
"""

import math
from dataclasses import replace

import torch

from .subspace import Similarity, Subspace, overlap


def similarity_across(source: Subspace, target: Subspace) -> Similarity:
    """Eq. 1 on a side whose width is the same; the cosine of the singular values on the other.

    The cosine is over as many leading singular values as both subspaces have. It is 1 for spectra
    of the same shape. Its chance level is not known, so it is NaN.
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
    """The same subspaces, with signs of the singular vectors that do not depend on the SVD.

    A pair of singular vectors (u, v) is as good as (-u, -v). The sign cancels in a map from the
    i-th direction to the i-th only if the widths are the same. Where they differ, the sign is
    chosen so that the cubed entries of the vector add up to more than 0 (its longer tail is
    positive).
    """
    by_left = source.U.shape[0] != target.U.shape[0]
    return _turned(source, by_left), _turned(target, by_left)


def _turned(subspace: Subspace, by_left: bool) -> Subspace:
    side = subspace.U if by_left else subspace.V
    signs = torch.where(side.pow(3).sum(dim=0) < 0, -1.0, 1.0).to(side.dtype)
    return replace(subspace, U=subspace.U * signs, V=subspace.V * signs)
