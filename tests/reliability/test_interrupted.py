"""Ctrl-C of the command line at random moments."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.core.command_line_files import command, environment
from tests.host.slow_files import write_slow

TIMES = 20
CANCELLED = 130


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("checkpoints", "loras"):
        (folder / name).mkdir()
    write_slow(folder)
    return folder


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def words_of(job: str, models: Path, out: Path) -> list[str]:
    checkpoints = models / "checkpoints"
    pair = [str(checkpoints / f"slow_{side}.safetensors") for side in "ab"]
    return {
        "transfer": [
            *("transfer", str(models / "loras" / "slow.safetensors"), "--threshold", "0"),
            *("--source", pair[0], "--target", pair[1], "-o", str(out)),
        ],
        "similarity": ["similarity", *pair, "--table", str(out)],
        "extract": ["extract", *pair, "-o", str(out)],
    }[job]


@pytest.mark.parametrize("job", ["transfer", "similarity", "extract"])
def test_ctrl_c_at_random_moments(job, models, tmp_path):
    temporary, out = tmp_path / "temporary", tmp_path / "out" / "result.safetensors"
    temporary.mkdir()
    out.parent.mkdir()
    before = files(models)

    def started() -> subprocess.Popen[bytes]:
        settings = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "2"}
        return subprocess.Popen(
            command(*words_of(job, models, out)),
            env=environment(**settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    began = time.monotonic()
    with started() as whole:
        whole.communicate(timeout=600)
    assert whole.returncode == 0
    length, size = time.monotonic() - began, out.stat().st_size
    out.unlink()
    ended, moments = [], random.Random(job)
    for _ in range(TIMES):
        with started() as program:
            time.sleep(moments.uniform(0.1, length))
            program.send_signal(signal.SIGINT)
            program.communicate(timeout=600)
        ended.append(program.returncode)
        with pytest.raises(ProcessLookupError):  # none of its processes is left
            os.killpg(program.pid, 0)
        if out.exists():  # it was written before the interrupt came
            assert out.stat().st_size == size
            out.unlink()
        assert not list(out.parent.iterdir()) and not list(temporary.iterdir())
    assert files(models) == before
    assert ended.count(CANCELLED) >= 3  # else the moments were badly chosen
