"""Queues prompts on a running ComfyUI and follows them, as its own page does."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import websocket

Prompt = Mapping[str, Mapping[str, Any]]
OnProgress = Callable[["Progress"], None]

CONNECT_SECONDS = 60.0  # a busy host answers late
QUIET_SECONDS = 2.0  # after such a silence the history tells whether the end was missed


# Seconds in which the host's worker wakes to it; a prompt that comes sooner goes before it.
_WAKES = 0.5


class PromptFailed(RuntimeError):
    """The host refused a prompt, or one of its nodes raised; the fields say which node and why."""

    def __init__(
        self,
        message: str,
        *,
        node_id: str | None = None,
        node_type: str | None = None,
        exception_type: str | None = None,
        traceback: str = "",
        node_errors: Mapping[str, Any] | None = None,
    ) -> None:
        where = f"node {node_id} ({node_type}): " if node_id else ""
        super().__init__(where + message)
        self.message = message
        self.node_id = node_id
        self.node_type = node_type
        self.exception_type = exception_type
        self.traceback = traceback
        self.node_errors = dict(node_errors or {})


class PromptInterrupted(RuntimeError):
    """The prompt was cancelled while it ran."""

    def __init__(self, node_id: str | None) -> None:
        super().__init__(f"interrupted at node {node_id}")
        self.node_id = node_id


@dataclass(frozen=True)
class Progress:
    """The node that runs now, and how far it is: `value` of `maximum`, both 0 at its start."""

    node_id: str
    node_type: str
    value: int = 0
    maximum: int = 0


@dataclass(frozen=True)
class Finished:
    """A prompt that ran to its end.

    Attributes:
        outputs: node id -> its `ui` outputs.
        executed: the nodes that ran; the others were cached.
    """

    prompt_id: str
    outputs: Mapping[str, Mapping[str, list[Any]]]
    executed: tuple[str, ...] = ()
    seconds: float = 0.0

    def of(self, node_id: str | int) -> Mapping[str, list[Any]]:
        """The outputs of one node; empty where it showed nothing."""
        return self.outputs.get(str(node_id), {})

    def images(self) -> list[dict[str, str]]:
        """Every image shown or saved, as filename, subfolder and type."""
        return [image for shown in self.outputs.values() for image in shown.get("images", ())]

    def texts(self) -> list[str]:
        """Every text shown by a node (the `text` key of its ui outputs)."""
        return [str(text) for shown in self.outputs.values() for text in shown.get("text", ())]


@dataclass
class _Run:
    """What is known so far of the prompt that is being followed."""

    prompt_id: str
    prompt: Prompt
    on_progress: OnProgress | None
    node_id: str = ""
    executed: list[str] = field(default_factory=list)

    def tell(self, value: int = 0, maximum: int = 0) -> None:
        if self.on_progress and self.node_id:
            node_type = str(self.prompt.get(self.node_id, {}).get("class_type", ""))
            self.on_progress(Progress(self.node_id, node_type, value, maximum))


class ComfyClient:
    """The HTTP interface and the websocket of one server. Holds no state: safe between threads."""

    def __init__(self, url: str, timeout: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout

    def object_info(self) -> dict[str, Any]:
        """Every node that the host knows, with its inputs and outputs."""
        return dict(self._json("/object_info"))

    def system_stats(self) -> dict[str, Any]:
        """The host's versions and devices."""
        return dict(self._json("/system_stats"))

    def interrupt(self) -> None:
        """Cancel the prompt that runs now; its `queue` call raises PromptInterrupted."""
        self._request("/interrupt", {})

    def free(self, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask the host to drop its models and its cached outputs before the next prompt."""
        self._request("/free", {"unload_models": unload_models, "free_memory": free_memory})
        time.sleep(_WAKES)

    def image(self, shown: Mapping[str, str]) -> bytes:
        """The file behind one entry of `Finished.images()`."""
        wanted = {key: shown[key] for key in ("filename", "subfolder", "type") if key in shown}
        return self._request("/view?" + urllib.parse.urlencode(wanted))

    def queue(
        self,
        prompt: Prompt,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
        extra_data: Mapping[str, Any] | None = None,
    ) -> Finished:
        """Run `prompt` (the API format) to its end.

        Raises:
            PromptFailed: the host refuses a part of it, or a node raises.
            PromptInterrupted: somebody cancels it.
            TimeoutError: it still runs after `timeout` seconds.
        """
        # Each prompt has its own client id, so two threads never see each other's messages.
        client_id = uuid.uuid4().hex
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={client_id}"
        began = time.monotonic()
        socket = websocket.create_connection(address, timeout=CONNECT_SECONDS)
        socket.settimeout(QUIET_SECONDS)
        try:
            run = _Run(self._post(prompt, client_id, extra_data or {}), prompt, on_progress)
            self._follow(socket, run, began + (timeout or self.timeout))
        finally:
            socket.close()
        outputs = self._json(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"]
        seconds = time.monotonic() - began
        return Finished(run.prompt_id, outputs, tuple(run.executed), seconds)

    def _post(self, prompt: Prompt, client_id: str, extra_data: Mapping[str, Any]) -> str:
        body = {"prompt": prompt, "client_id": client_id, "extra_data": extra_data}
        try:
            answer = json.loads(self._request("/prompt", body))
        except urllib.error.HTTPError as error:
            raise _refusal(error.read().decode("utf-8", "replace"), prompt) from None
        prompt_id = str(answer["prompt_id"])
        if answer.get("node_errors"):
            # The page would run the valid outputs only; a test must not overlook the others.
            self._request("/queue", {"delete": [prompt_id]})
            self.interrupt()
            raise _refusal(json.dumps(answer), prompt)
        return prompt_id

    def _follow(self, socket: websocket.WebSocket, run: _Run, deadline: float) -> None:
        while time.monotonic() < deadline:
            try:
                message = socket.recv()
            except websocket.WebSocketTimeoutException:
                if self._has_ended(run.prompt_id):
                    return
                continue
            if isinstance(message, str) and message and _is_end(json.loads(message), run):
                return
        raise TimeoutError(f"prompt {run.prompt_id} still ran at its deadline, node {run.node_id}")

    def _has_ended(self, prompt_id: str) -> bool:
        entry = self._json(f"/history/{prompt_id}").get(prompt_id)
        status = (entry or {}).get("status") or {}
        if status.get("status_str") == "error":
            # The message may come just now, after the silence.
            if any(kind == "execution_interrupted" for kind, _ in status.get("messages", ())):
                raise PromptInterrupted(None)
            raise PromptFailed("the host reports an error that it sent no message of")
        return entry is not None

    def _json(self, path: str) -> Any:
        return json.loads(self._request(path))

    def _request(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return bytes(response.read())


def _is_end(message: Mapping[str, Any], run: _Run) -> bool:
    """Handle a message; True if it is the last of this prompt."""
    kind, data = message.get("type"), message.get("data") or {}
    if data.get("prompt_id", run.prompt_id) != run.prompt_id:
        return False
    if kind == "execution_error":
        raise PromptFailed(
            str(data.get("exception_message", "")).strip(),
            node_id=str(data.get("node_id")),
            node_type=data.get("node_type"),
            exception_type=data.get("exception_type"),
            traceback="".join(data.get("traceback") or ()),
        )
    if kind == "execution_interrupted":
        raise PromptInterrupted(data.get("node_id"))
    if kind == "executing":
        if data.get("node") is None:
            return True
        run.node_id = str(data["node"])
        run.executed.append(run.node_id)
        run.tell()
    elif kind == "progress":
        run.tell(int(data["value"]), int(data["max"]))
    return False


def _refusal(body: str, prompt: Prompt) -> PromptFailed:
    """The host's answer to a prompt that it does not take, as an exception."""
    try:
        answer = json.loads(body)
    except ValueError:
        return PromptFailed(f"the host answered: {body.strip()[:500]}")
    error = answer.get("error") or {}
    parts = [error] if isinstance(error, str) else [error.get("message"), error.get("details")]
    node_errors = answer.get("node_errors") or {}
    for node_id, found in dict(node_errors).items():
        for reason in found.get("errors", ()):
            parts.append(f"[{node_id}] {reason.get('message')}: {reason.get('details')}")
    node_id = next(iter(node_errors), "")
    return PromptFailed(
        "; ".join(str(part) for part in parts if part),
        node_id=node_id or None,
        node_type=prompt.get(node_id, {}).get("class_type"),
        node_errors=dict(node_errors),
    )
