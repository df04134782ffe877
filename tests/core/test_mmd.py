"""The distance of two sets against its closed form for Gaussians, and by hand."""

import math
import statistics

import pytest
import torch

from prolora.evaluation.mmd import mmd_squared

DRAWS, SAMPLES = 100, 20


def closed_form(apart: float, first: float, second: float, d: int, bandwidth: float) -> float:
    """MMD squared of N(a, first^2 I) and N(b, second^2 I), |a - b| = apart.

    The mean of a Gaussian kernel over two Gaussians is a Gaussian integral.
    """

    def mean_kernel(s: float, t: float, distance: float) -> float:
        wide = bandwidth**2 + s**2 + t**2
        return (bandwidth**2 / wide) ** (d / 2) * math.exp(-(distance**2) / (2 * wide))

    return (
        mean_kernel(first, first, 0)
        + mean_kernel(second, second, 0)
        - 2 * mean_kernel(first, second, apart)
    )


def biased(x: torch.Tensor, y: torch.Tensor, bandwidth: float) -> float:
    """The other estimate, which counts what meets itself."""
    both = torch.cat([x, y])
    kernel = torch.exp(-(both[:, None] - both[None]).square().sum(-1) / (2 * bandwidth**2))
    n = len(x)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())


def estimates(apart, first, second, d, bandwidth, estimate) -> list[float]:
    generator = torch.Generator().manual_seed(d)
    shift = torch.zeros(d)
    shift[0] = apart
    return [
        estimate(
            first * torch.randn(SAMPLES, d, generator=generator),
            second * torch.randn(SAMPLES, d, generator=generator) + shift,
            bandwidth,
        )
        for _ in range(DRAWS)
    ]


def away(found: list[float], truth: float) -> float:
    """How far the mean of the draws is from the truth, in its standard errors."""
    error = statistics.stdev(found) / math.sqrt(len(found))
    return abs(statistics.fmean(found) - truth) / error


@pytest.mark.parametrize(
    ("apart", "first", "second", "d", "bandwidth"),
    [(0, 1, 1, 3, 1), (1, 1, 1, 3, 1), (0, 1, 2, 2, 1), (1, 1, 0.5, 4, 1), (0.5, 0.3, 0.3, 8, 1)],
)
def test_gaussians_have_the_closed_form(apart, first, second, d, bandwidth):
    case = (apart, first, second, d, bandwidth)
    truth = closed_form(*case)
    assert away(estimates(*case, biased), truth) > 5  # so the draws suffice to tell
    assert away(estimates(*case, mmd_squared), truth) < 4


def test_by_hand():
    """Of 0, 1 and 0, 2 on a line: three kernels at distances 1, 2 and 0, 2, 1, 1."""
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    one, two = math.exp(-1 / 2), math.exp(-4 / 2)
    want = one + two - 2 * (1 + two + one + one) / 4
    assert abs(want) > 0.1
    assert mmd_squared(first, second, 1.0) == pytest.approx(want, abs=1e-12)


def test_a_set_and_itself():
    """The closed form is 2 (A - 1) / n with the mean kernel A: below 0, and of the order of 1/n."""
    x = torch.nn.functional.normalize(
        torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    )
    other = torch.nn.functional.normalize(x + 0.5)
    assert mmd_squared(x, other) > 0.1
    assert -2 / len(x) < mmd_squared(x, x) <= 0


def test_half_precision_does_not_lose_what_is_near():
    """Descriptors that nearly agree: their squared distance is the difference of large products."""
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.normalize(x) * 1e-4 + torch.nn.functional.normalize(
        torch.ones(64), dim=0
    )
    y = x + 1e-4
    plain = torch.exp(-(x[:, None].double() - y[None].double()).square().sum(-1) / (2 * 1e-8))
    among = torch.exp(-(x[:, None].double() - x[None].double()).square().sum(-1) / (2 * 1e-8))
    want = 2 * (among.sum() - 20) / 380 - 2 * plain.mean()
    assert want > 0.05
    assert mmd_squared(x, y, 1e-4) == pytest.approx(float(want), rel=1e-3)
