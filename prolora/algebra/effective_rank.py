"""How many singular vectors hold a share of a weight's energy."""

import torch

# Singular values whose squares agree to this are one: float32 weights do not tell them apart, so a
# cut between them would pick an arbitrary basis.
TIE = 1e-6


def smallest_rank(squared_singular_values: torch.Tensor, energy: float) -> int:
    """The smallest k with s_1^2 + ... + s_k^2 >= energy * sum s_i^2; 0 for a zero matrix.

    Args:
        squared_singular_values: descending, float64.
        energy: share of the squared Frobenius norm to hold, in (0, 1).
    """
    total = squared_singular_values.sum()
    if total == 0:
        return 0
    held = torch.cumsum(squared_singular_values, dim=0)
    # One rounding error of the sums must not cost a singular vector.
    k = int((held < energy * total * (1 - 1e-12)).sum()) + 1
    return min(k, len(squared_singular_values))


def effective_rank(squared_singular_values: torch.Tensor, energy: float) -> int:
    """The smallest rank that holds the energy, and all values equal to the last.

    Without those the subspace would be arbitrary. The arguments are those of smallest_rank.
    """
    return with_ties(squared_singular_values, smallest_rank(squared_singular_values, energy))


def with_ties(squared: torch.Tensor, k: int) -> int:
    """k, or more where the k-th value has equal ones after it."""
    if k == 0 or squared[k - 1] <= 0:
        return k
    return int((squared >= squared[k - 1] * (1 - TIE)).sum())
