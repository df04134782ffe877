"""Another pack may have allowed TF32 for the whole process; a transfer is exact all the same."""

import pytest
import torch

from prolora.algebra.precision import full_float32
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .small_models import file_of, model_of, random_lora, random_weight

NEWER = hasattr(torch.backends, "fp32_precision")  # torch 2.9 and later: a setting a backend
REDUCED = ("tf32", "bf16") if NEWER else ("medium",)
FULL = ("ieee", "ieee") if NEWER else ("highest",)


@pytest.fixture
def reduced():
    """As `torch.set_float32_matmul_precision("medium")` in another pack leaves it."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


def state() -> tuple[str, ...]:
    if not NEWER:
        return (torch.get_float32_matmul_precision(),)
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


def test_reduced_precision_is_forbidden_inside_and_allowed_again_after(reduced):
    before = state()
    assert before == REDUCED
    with full_float32():
        assert state() == FULL
    assert state() == before
    with pytest.raises(RuntimeError), full_float32():
        raise RuntimeError
    assert state() == before
    assert torch.get_float32_matmul_precision() == "medium"


def test_a_transfer_runs_in_full_precision(reduced):
    seen = []
    source, target = (model_of(n, {"m": random_weight((24, 16), i)}) for i, n in enumerate("AB"))
    transfer_lora(
        file_of(random_lora("m", (24, 16))),
        source,
        target,
        TransferSettings(threshold=0.0),
        progress=lambda done, total, name: seen.append(state()),
    )
    assert set(seen) == {FULL}
    assert state() == REDUCED
