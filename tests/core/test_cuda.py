"""The projection on a GPU is the one on the CPU; runs where there is one."""

import numpy as np
import pytest
import torch
from hypothesis import given

from prolora.algebra.leading import leading_subspace
from prolora.algebra.subspace import similarity
from prolora.algebra.updates import LowRankUpdate

from .strategies import Case, cases, dense, project

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@given(case=cases())
def test_cuda_equals_cpu(case: Case):
    on_cpu, on_gpu = (moved(case, torch.device(name)) for name in ("cpu", "cuda"))
    assert on_gpu[1] == pytest.approx(on_cpu[1], abs=1e-4)
    scale = np.linalg.norm(case.delta)
    assert np.linalg.norm(on_cpu[0] - on_gpu[0]) < 1e-5 * scale


def moved(case: Case, device: torch.device) -> tuple[np.ndarray, float]:
    source, target = (
        leading_subspace(weight.to(device), case.energy) for weight in (case.source, case.target)
    )
    update = LowRankUpdate(case.update.up.to(device), case.update.down.to(device))
    cut = project(update, source, target, "prolora").truncate(update.rank)
    result = LowRankUpdate(cut.factors.up.cpu(), cut.factors.down.cpu())
    return dense(result), similarity(source, target).score
