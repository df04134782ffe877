"""A drive that stops answering: what still goes on, and when Cancel and Ctrl-C are taken."""

import os
import signal
import threading
import time

from prolora.command_line import main
from prolora.files import safetensors
from tests.core.libraries_of_loras import write_library

from .children import begun

STALL = 6.0  # seconds, in which a drive does not answer
FIRST = 2.0  # seconds until Ctrl-C


def test_ctrl_c_while_a_drive_does_not_answer(tell, tmp_path):
    """A read waits in the system, as one from a network drive does; this one waits for a pipe."""
    write_library(tmp_path, 1)
    answers, answer = os.pipe()
    begins, begin = os.pipe()
    read = safetensors.read_tensor

    def stalled(file, place):
        if file.name.endswith("b.safetensors"):  # the target's weights
            os.write(begin, b"!")
            os.read(answers, 1)
        return read(file, place)

    def job() -> None:
        safetensors.read_tensor = stalled
        beats = []
        threading.Thread(target=lambda: _beat(beats), daemon=True).start()
        words = ["transfer", str(tmp_path / "style.safetensors"), "--threshold", "0"]
        pair = "--source", str(tmp_path / "a.safetensors"), "--target"
        out = "-o", str(tmp_path / "out.safetensors"), "--workers", "2"
        code = main([*words, *pair, str(tmp_path / "b.safetensors"), *out])
        (tmp_path / "said").write_text(f"{code} {len(beats)}")

    child = begun(job)
    os.read(begins, 1)
    began = time.monotonic()
    time.sleep(FIRST)
    os.kill(child.pid, signal.SIGINT)
    time.sleep(STALL - FIRST)
    assert not (tmp_path / "said").exists()  # it waits for its threads
    os.write(answer, b"!" * 64)
    assert child.ended() == 0
    waited = time.monotonic() - began
    code, beats = (tmp_path / "said").read_text().split()
    assert int(code) == 130
    assert int(beats) > 10 * STALL / 2  # other threads, as a server's, went on
    assert not (tmp_path / "out.safetensors").exists() and not list(tmp_path.glob(".prolora*"))
    tell(
        "faults",
        f"a drive that does not answer for {STALL:.0f} s; Ctrl-C after {FIRST:.0f} s",
        1,
        f"other threads went on; the command ended cancelled {max(waited - STALL, 0):.1f} s after "
        "the drive answered, with nothing written",
    )


def _beat(beats: list[int]) -> None:
    while True:
        beats.append(0)
        time.sleep(0.1)
