"""A real ComfyUI server in its own working folder, for the length of a `with` block."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from .client import ComfyClient
from .hosts import PACK_ROOT, Host, find_host

PACK_NAME = "ComfyUI-ProLoRA"

# The names that every host since 2024 reads: `unet` is also searched for diffusion_models, and
# `clip` for text_encoders.
FOLDERS = (
    "models/checkpoints",
    "models/clip",
    "models/embeddings",
    "models/loras",
    "models/unet",
    "models/vae",
    "custom_nodes",
    "input",
    "output",
    "temp",
    "user/default",
    "user/huggingface/hub",
)

# A first visit to the newer pages opens a gallery of templates over the graph.
PAGE_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped"}

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "NO_COLOR": "1",
    "OTEL_SDK_DISABLED": "true",
    "PYTHONUNBUFFERED": "1",
    "PYTHONIOENCODING": "utf-8",
}


class ServerFailed(RuntimeError):
    """ComfyUI did not start, or stopped; the text ends with the last lines of its log."""


class ComfyServer:
    """Starts ComfyUI on a free loopback port, and always stops it and its child processes.

    `folder` becomes the host's working folder: models/, custom_nodes/, input/, output/, temp/,
    user/. `custom_nodes` maps names to folders (or single .py files) which are linked into
    custom_nodes/; the pack itself is one of them unless `with_pack` is False. Links of an
    earlier run are replaced; anything else in the folder is left alone.
    """

    def __init__(
        self,
        folder: Path,
        custom_nodes: Mapping[str, Path] | None = None,
        *,
        with_pack: bool = True,
        host: Host | None = None,
        port: int | None = None,
        device: Sequence[str] = ("--cpu",),
        start_timeout: float = 300.0,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.host = host or find_host()
        self.port = port or free_port()
        self.log_path = self.folder / "comfyui.log"
        self._custom_nodes = {PACK_NAME: PACK_ROOT} if with_pack else {}
        self._custom_nodes.update(custom_nodes or {})
        self._device = tuple(device)
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address of the page and of the HTTP interface, without a closing slash."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> ComfyClient:
        """A client of this server; each thread may use its own or share one."""
        return ComfyClient(self.url)

    def log_text(self) -> str:
        """Everything that the host has printed so far."""
        if not self.log_path.exists():
            return ""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """True from the start until the process ends, in whatever way."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Prepare the folder, start the process, and return when it answers.

        Raises:
            ServerFailed: the process ended, or did not answer in time.
        """
        prepare_folder(self.folder, self._custom_nodes)
        with self.log_path.open("wb") as log:
            self._process = self._spawn(log)
        try:
            self._wait_until_it_answers()
        except BaseException:  # a KeyboardInterrupt too must not leave a server behind
            self.stop()
            raise

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # PYTHONPATH would put the pack's `nodes` package before the host's module of that name. A
        # session of its own makes the server and its children one process group, and keeps Ctrl+C
        # from it, so that we can stop it in good order.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ENVIRONMENT
        # Some nodes list the files of this cache, and those of the user would make runs differ.
        environment["HF_HOME"] = str(self.folder / "user" / "huggingface")
        return subprocess.Popen(
            self.host.command(self.folder, self.port, self._device),
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if not self.is_running():
                code = self._process.returncode if self._process else None
                raise ServerFailed(self._report(f"ended with exit code {code}"))
            if answers(f"{self.url}/system_stats"):
                return
            time.sleep(0.2)
        raise ServerFailed(self._report(f"did not answer within {self._start_timeout:.0f} s"))

    def _report(self, what: str) -> str:
        return f"{self.host.name} {what}; the end of {self.log_path}:\n{self.log_tail()}"

    def stop(self, patience: float = 10.0) -> None:
        """Ask the process and its children to end, then kill those that still run."""
        process, self._process = self._process, None
        if process is None:
            return
        for hard in (False, True):
            _signal_group(process, hard)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            break
        _signal_group(process, hard=True)  # children that outlived the server


def _signal_group(process: subprocess.Popen[bytes], hard: bool) -> None:
    if os.name == "nt":
        process.kill() if hard else process.terminate()
        return
    with contextlib.suppress(ProcessLookupError):  # the group is gone already
        os.killpg(process.pid, signal.SIGKILL if hard else signal.SIGTERM)


def prepare_folder(folder: Path, custom_nodes: Mapping[str, Path]) -> None:
    """Make the working folder and link the custom nodes into it."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = folder / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.write_text(json.dumps(PAGE_SETTINGS), encoding="utf-8")
    for link in (folder / "custom_nodes").iterdir():
        if link.is_symlink():
            link.unlink()
    for name, target in custom_nodes.items():
        link_or_copy(folder / "custom_nodes" / name, Path(target).resolve())


def link_or_copy(link: Path, target: Path) -> None:
    """Make a symbolic link, or a copy where the system forbids links (some Windows users)."""
    if not target.exists():
        raise FileNotFoundError(f"custom node {link.name}: {target} does not exist")
    try:
        link.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        if target.is_dir():
            unwanted = shutil.ignore_patterns(".*", "__pycache__")
            shutil.copytree(target, link, ignore=unwanted, dirs_exist_ok=True)
        else:
            shutil.copy2(target, link)


def free_port() -> int:
    """A loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """True when an HTTP GET of `url` succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
