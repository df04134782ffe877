"""The distance of two sets of descriptors: maximum mean discrepancy (MMD)."""

import torch
from torch import Tensor

BANDWIDTH = 1.0


def mmd_squared(first: Tensor, second: Tensor, bandwidth: float = BANDWIDTH) -> float:
    """The squared MMD of two sets under the Gaussian kernel, in its unbiased estimate.

    The kernel is `exp(-|x - y|^2 / (2 bandwidth^2))`, the estimate Eq. 3 of Gretton et al., *A
    Kernel Two-Sample Test*, JMLR 2012. Unbiased: its expectation does not depend on how many there
    are, and is 0 for two samples of one distribution, so it may well be below 0.

    LoRA-X (arXiv 2501.16559) and ProLoRA (arXiv 2506.04244) report such a figure of CSD descriptors
    as CSD-MMD. Their kernel and estimate are not known here, so ours compares within one table, not
    with theirs. Descriptors have length 1, so `|x - y|^2 = 2 - 2 cos` is at most 4, which a
    bandwidth of 1 tells apart; it is fixed, not the median of the data: runs have one scale.

    Args:
        first: n x d, n >= 2.
        second: m x d, m >= 2.
    """
    x, y = first.double(), second.double()
    return float(
        _mean_of_others(_kernel(x, x, bandwidth))
        + _mean_of_others(_kernel(y, y, bandwidth))
        - 2 * _kernel(x, y, bandwidth).mean()
    )


def _kernel(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """Compares n with m: n x m."""
    # Not by matrix products: they lose the distance of two vectors that are nearly the same.
    distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-distances.square() / (2 * bandwidth**2))


def _mean_of_others(kernel: Tensor) -> Tensor:
    """The mean without the diagonal, where each meets itself."""
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
