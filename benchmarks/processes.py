"""Commands in a process of their own, watched for time and memory; a busy neighbour (Linux)."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryFile

import torch

ROOT = Path(__file__).resolve().parent.parent
_SAMPLED = 0.05  # seconds


@dataclass(frozen=True)
class Run:
    """What was measured of a process.

    Attributes:
        seconds, cpu_seconds: wall time, and CPU time of all threads.
        peak: the most resident bytes, including pages of mapped files.
        peak_own: the most resident bytes without pages of files; sampled.
        peak_device: the most bytes of the GPU beyond those that were taken before; sampled.
    """

    seconds: float
    cpu_seconds: float
    peak: int
    peak_own: int
    peak_device: int


def prolora(*arguments: str | Path) -> list[str]:
    """The command line of a checkout that the process is started in."""
    return [sys.executable, "-m", "prolora", *map(str, arguments)]


def watch(
    command: Sequence[str],
    checkout: Path = ROOT,
    threads: int = 0,
    device: torch.device | None = None,
) -> Run:
    """Runs a command and samples its memory.

    The kernel's own high-water mark is read, so no peak is missed but one of the last 50 ms.

    Args:
        checkout: of this project; the command runs in it.
        threads: that torch takes there on the CPU; 0 for its choice.
        device: whose memory is watched too, where it is a GPU.

    Raises:
        SystemExit: the command failed.
    """
    environment = os.environ | _threads(threads)
    before = _device_memory(device)
    start, peak, peak_own, peak_device = time.monotonic(), 0, 0, 0
    with (
        TemporaryFile() as said,
        Popen(command, cwd=checkout, env=environment, stdout=DEVNULL, stderr=said) as process,
    ):
        while True:
            memory = _memory(process.pid)
            peak = max(peak, memory.get("VmHWM", 0))
            peak_own = max(peak_own, memory.get("RssAnon", 0))
            peak_device = max(peak_device, _device_memory(device) - before)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            time.sleep(_SAMPLED)
        seconds = time.monotonic() - start
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read().decode()[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak, peak_own, peak_device)


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """Another process that keeps one core busy meanwhile, or nothing."""
    if not busy:
        yield
        return
    # It ends with its parent, however that ends.
    endless = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n sum(range(9**5))"
    process = Popen([sys.executable, "-c", endless])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _threads(threads: int) -> dict[str, str]:
    """What tells torch and its libraries; 0 for their choice."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if threads else ()
    return dict.fromkeys(names, str(threads))


def _memory(pid: int) -> dict[str, int]:
    """The Vm and Rss lines of a process, in bytes; none once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in pairs}


def _device_memory(device: torch.device | None) -> int:
    """The bytes of a GPU that are taken, by whom ever."""
    if device is None or device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free
