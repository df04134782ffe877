"""Asks a host for what no page asks, by its API, and says what it answered."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_harness.client import ComfyClient
from comfy_harness.server import ComfyServer

REFUSED, RAN, SENTENCE = "refused by the host", "ran", "a sentence"
_LONGEST = 4000  # letters of a sentence
_PATIENCE = 300.0


@dataclass(frozen=True)
class Answer:
    """What came of a prompt.

    Attributes:
        kind: REFUSED, RAN, SENTENCE (a ProLoRAError that can be shown), or what else went wrong.
        text: the message.
        seconds: of the processor, which other work on the machine does not change.
    """

    kind: str
    text: str
    seconds: float

    @property
    def is_fine(self) -> bool:
        return self.kind in (REFUSED, RAN, SENTENCE)


def ask(comfy: ComfyServer, prompt: Mapping[str, Any]) -> Answer:
    client, before, began = comfy.client(), _worked(comfy.pid), time.monotonic()

    def answer(kind: str, text: str = "") -> Answer:
        return Answer(kind, text, _worked(comfy.pid) - before)

    try:
        queued = _json(client, "/prompt", {"prompt": prompt})
    except urllib.error.HTTPError as error:
        body = error.read().decode("utf-8", "replace")
        return answer(REFUSED if error.code == 400 else f"HTTP {error.code}", body)
    while time.monotonic() - began < _PATIENCE:
        past = _json(client, f"/history/{queued['prompt_id']}").get(queued["prompt_id"])
        if past is not None:
            return answer(*_ended(past))
        time.sleep(0.01)
    return answer("no end")


def files_below(folder: Path) -> dict[str, int]:
    """Path -> size of all files; links are not followed."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return {str(path): path.lstat().st_size for path in found}


def _worked(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ended(past: Mapping[str, Any]) -> tuple[str, str]:
    status = past.get("status") or {}
    if status.get("status_str") == "success":
        return RAN, json.dumps(past["outputs"])
    for kind, data in status.get("messages", ()):
        if kind == "execution_error":
            text = data["exception_message"].strip()
            shown = all(letter.isprintable() or letter == "\n" for letter in text)
            if data["exception_type"] == "ProLoRAError" and shown and len(text) < _LONGEST:
                return SENTENCE, text
            return data["exception_type"], text + "".join(data["traceback"][-1:])
    return "an end without a word", json.dumps(status)


def _json(client: ComfyClient, path: str, body: Mapping[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data else {}
    request = urllib.request.Request(client.url + path, data, headers)
    with urllib.request.urlopen(request, timeout=_PATIENCE) as response:
        return json.loads(response.read())
