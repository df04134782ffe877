"""A job in a process of its own, which has what this one has loaded: begun at once, and killed."""

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

_DONE = 77  # how a child ends that has done its job


@dataclass
class Child:
    """A job at work in a process of its own.

    Attributes:
        pid: of the process.
    """

    pid: int

    def killed_after(self, seconds: float) -> bool:
        """Ends it as a power cut does; whether it had done its job before."""
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == _DONE, "it ended by an error of its own"
        return not os.WIFSIGNALED(status)

    def ended(self) -> int:
        """Waits for it: 0 if it has done its job, 1 after an error, -N after signal N."""
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            return -os.WTERMSIG(status)
        return int(os.WEXITSTATUS(status) != _DONE)


def begun(job: Callable[[], object]) -> Child:
    """Begins a job in a child, which says nothing."""
    pid = os.fork()
    if pid:
        return Child(pid)
    try:
        faulthandler.disable()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        job()
        os._exit(_DONE)
    finally:
        os._exit(1)


def length_of(job: Callable[[], object]) -> float:
    """Seconds that a job takes in a child."""
    began = time.monotonic()
    assert begun(job).ended() == 0
    return time.monotonic() - began
