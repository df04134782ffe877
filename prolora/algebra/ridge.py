"""Ridge regression towards a known answer: the inputs of a factor, fitted to what it should read.

    down = argmin  ||z - X down^T||^2 + l ||down - start||^2,   l = penalty * p * mean(x^2)

with X the p x n inputs, z the p x r read-outs and l in units of the Gram matrix's mean diagonal.
One Cholesky of the smaller of X X^T (p x p) and X^T X (n x n).
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Fit:
    """A fitted factor, and how far its read-outs are off.

    Attributes:
        factor: r x n, in the dtype of the start.
        off_before: ||z - X start^T|| / ||z||; 0 where z is nothing.
        off_after: the same of the factor, each position read by a fit that leaves it out, so that
            it tells of positions that the fit has not seen.
    """

    factor: torch.Tensor
    off_before: float
    off_after: float


def fit_towards(
    inputs: torch.Tensor, wanted: torch.Tensor, start: torch.Tensor, penalty: float
) -> Fit:
    """Fits a factor to read-outs, from where it starts.

    Args:
        inputs: X, p x n.
        wanted: z, p x r.
        start: r x n.
        penalty: above 0; how much the start is trusted.
    """
    X, z, begin = inputs.double(), wanted.double(), start.double()
    size = float(X.square().mean())
    missing = z - X @ begin.T
    if not size or not missing.any():
        return Fit(start, _share(missing, z), _share(missing, z))
    shrunk = penalty * len(X) * size
    wide = len(X) <= X.shape[1]
    gram = X @ X.T if wide else X.T @ X
    gram.diagonal().add_(shrunk)
    factor = torch.linalg.cholesky(gram)
    if wide:  # (X^T X + l)^-1 X^T = X^T (X X^T + l)^-1
        inverse = torch.cholesky_inverse(factor)
        weights = inverse @ missing
        change = weights.T @ X
        left_out = weights / inverse.diagonal()[:, None]
    else:
        solved = torch.cholesky_solve(X.T, factor)  # (X^T X + l)^-1 X^T, n x p
        change = (solved @ missing).T
        leverage = torch.einsum("pn,np->p", X, solved)
        left_out = (missing - X @ change.T) / (1 - leverage)[:, None]
    return Fit((begin + change).to(start.dtype), _share(missing, z), _share(left_out, z))


def _share(part: torch.Tensor, whole: torch.Tensor) -> float:
    size = float(torch.linalg.vector_norm(whole))
    return float(torch.linalg.vector_norm(part)) / size if size else 0.0
