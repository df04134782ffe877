"""How far a job is: the host's bar, a text on the node that runs, and a stop after Cancel."""

import time
from typing import Any

import comfy.model_management
import comfy.utils

MESSAGE = "prolora.progress"  # web/prolora.js shows it
_EVERY = 0.5  # seconds from one text to the next
_SETTLED = 3.0  # seconds of a job before its time left can be told


class Progress:
    """Called by a job with how much of how much is done, and what it does now.

    A job of several parts counts each of them from the beginning. A call raises the host's own
    exception after the user pressed Cancel.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._total = self._done = 0
        self._began = self._told = float("-inf")

    def __call__(self, done: int, total: int, name: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if total != self._total or done < self._done or self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
            self._began = now
        self._done, self._total = done, total
        self._bar.update_absolute(done, total)
        if now - self._told >= _EVERY:
            self._told = now
            _send(text_of(done, total, name, now - self._began))


def text_of(done: int, total: int, name: str, seconds: float) -> str:
    """How far a part of a job is, what it does now, and the time left after so many seconds."""
    parts = [f"{done} of {total}"] if total > 1 else []
    if done and seconds >= _SETTLED:
        parts.append(f"{_in_words(seconds / done * (total - done))} left")
    return "\n".join(filter(None, (", ".join(parts), name)))


def _in_words(seconds: float) -> str:
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _send(text: str) -> None:
    """Tells the page that queued the prompt."""
    try:
        from server import PromptServer
    except ImportError:  # the June 2024 release that is installed as a package
        from comfy.cmd.server import PromptServer  # type: ignore[no-redef]
    server = PromptServer.instance
    node = server.last_node_id
    if server.client_id is not None and node is not None:
        said = {"prompt_id": server.last_prompt_id, "node": node, "text": text}
        server.send_sync(MESSAGE, said, server.client_id)
