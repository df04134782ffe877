"""What another pack has set in torch changes no bit of a job, and is set afterwards as before."""

import pytest
import torch

from prolora.algebra.kept import NOTHING_KEPT
from prolora.progress import silent
from prolora.surroundings import usual_torch

from .disturbances import DISTURBANCES, disturbed, settings
from .every_job import JOBS

BY_WEIGHTS = ("moved by full", "measured", "extracted")
SOME = (*BY_WEIGHTS, "recorded", "calibrated", "refined")
# In these a model runs as it does for everybody else.
OF_THE_MODEL = ("products in bfloat16", "five threads")


@pytest.fixture(scope="module")
def wanted():
    return {name: JOBS[name](1, silent, NOTHING_KEPT) for name in SOME}


@pytest.mark.skipif(not hasattr(torch, "get_default_device"), reason="a torch before 2.3")
@pytest.mark.parametrize("name", DISTURBANCES)
def test_it_reaches_no_job(name, wanted):
    usual = settings()
    with disturbed(name):
        assert settings() != usual
        for job in BY_WEIGHTS if name in OF_THE_MODEL else SOME:
            with usual_torch():
                assert JOBS[job](2, silent, NOTHING_KEPT) == wanted[job], job


def test_without_it_a_job_fails():
    """Else the test above would see nothing."""
    with disturbed(f"default dtype {torch.float64}"), pytest.raises(RuntimeError, match="dtype"):
        JOBS["recorded"](1, silent, NOTHING_KEPT)
