"""How far a job is: the host's bar, a text on the node that runs, and a stop after Cancel."""

import time
from typing import Any

import comfy.model_management
import comfy.utils

from ...prolora.progress import Pace

MESSAGE = "prolora.progress"  # web/prolora.js shows it
_EVERY = 0.5  # seconds from one text to the next


class Progress:
    """Called by a job with how much of how much is done, and what it does now.

    A job of several parts counts each of them from the beginning. A call raises the host's own
    exception after the user pressed Cancel.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._pace = Pace()
        self._told = float("-inf")

    def __call__(self, done: int, total: int, name: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._pace.begins(done, total) or self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        self._bar.update_absolute(done, total)
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            _send("\n".join(filter(None, (str(self._pace), name))))


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
