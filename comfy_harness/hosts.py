"""The ComfyUI to run: the one of COMFYUI_PATH, the one that the pack lies in, or the embedded one.

A Host is the command that starts a ComfyUI in a working folder. Differences between releases are
read from their own files (a flag is used if `cli_args.py` mentions it), so a checkout of another
date needs no edit here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# absolute(), not resolve(): a pack that is linked into a custom_nodes/ belongs to that ComfyUI.
PACK_ROOT = Path(__file__).absolute().parent.parent

# Flags that a host may or may not have: no browser window, no look-up on the network, and no
# database file written into somebody's checkout.
OPTIONAL_FLAGS: Mapping[str, tuple[str, ...]] = {
    "--disable-auto-launch": (),
    "--disable-api-nodes": (),
    "--disable-known-models": (),
    "--database-url": ("sqlite:///:memory:",),
}


class HostNotFound(RuntimeError):
    """No ComfyUI can be started; the text says what to do."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI that can be started.

    Attributes:
        name: for people.
        program: the beginning of the command line.
        takes_base_directory: whether --base-directory names its working folder.
        flags: further flags that this release knows.
    """

    name: str
    program: tuple[str, ...]
    takes_base_directory: bool
    flags: tuple[str, ...]

    def command(self, folder: Path, port: int, device: Sequence[str] = ("--cpu",)) -> list[str]:
        """The whole command line; `folder` is also the process's current directory."""
        base = ("--base-directory", str(folder)) if self.takes_base_directory else ()
        listen = ("--listen", "127.0.0.1", "--port", str(port))
        return [*self.program, *device, *listen, *base, *self.flags]


def find_host(pack: Path = PACK_ROOT, environ: Mapping[str, str] = os.environ) -> Host:
    """The ComfyUI of COMFYUI_PATH, else the one whose custom_nodes holds `pack`, else the embedded.

    Raises:
        HostNotFound: COMFYUI_PATH names no checkout, or no embedded ComfyUI is installed.
    """
    if named := environ.get("COMFYUI_PATH"):
        return checkout_host(Path(named), environ.get("COMFYUI_PYTHON"))
    around = pack.absolute().parent
    if around.name == "custom_nodes" and is_checkout(around.parent):
        return checkout_host(around.parent, environ.get("COMFYUI_PYTHON"))
    return embedded_host()


def is_checkout(folder: Path) -> bool:
    """True for a folder that holds ComfyUI's own files."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def checkout_host(folder: Path, python: str | None = None) -> Host:
    """A ComfyUI checkout, run by `python`, else by its own virtual environment, else by ours.

    Raises:
        HostNotFound: the folder is no ComfyUI checkout.
    """
    folder = folder.expanduser().resolve()
    if not is_checkout(folder):
        raise HostNotFound(
            f"COMFYUI_PATH is {folder}, which has no main.py and comfy/: "
            "name the folder of a ComfyUI checkout, or unset it to use the embedded one"
        )
    return Host(
        name=f"ComfyUI in {folder.name}",
        program=(python or own_python(folder) or sys.executable, str(folder / "main.py")),
        takes_base_directory=True,
        flags=known_flags(folder / "comfy" / "cli_args.py"),
    )


def own_python(checkout: Path) -> str | None:
    """The interpreter of the checkout's virtual environment, where it has one."""
    names = ("bin/python", "Scripts/python.exe")
    candidates = (checkout / venv / name for venv in (".venv", "venv") for name in names)
    return next((str(path) for path in candidates if path.is_file()), None)


def embedded_host() -> Host:
    """The ComfyUI that `make setup` installs beside the interpreter that runs this.

    Raises:
        HostNotFound: it is not installed.
    """
    # The script lies beside the venv's python; sys.executable must not be resolved, since a
    # venv's python is a link to the system's.
    places = (Path(sys.executable).parent / name for name in ("comfyui", "comfyui.exe"))
    script = next((path for path in places if path.is_file()), None)
    if script is None:
        raise HostNotFound(
            "no ComfyUI to run: `make setup` installs one, "
            "or set COMFYUI_PATH to the folder of your own"
        )
    # The file is read as text, because importing it would parse this process's arguments.
    package = Path(sys.prefix).glob("[Ll]ib/**/site-packages/comfy/cli_args.py")
    return Host(
        name="the embedded ComfyUI",
        program=(str(script),),
        takes_base_directory=False,
        flags=known_flags(*package),
    )


def known_flags(*cli_args: Path) -> tuple[str, ...]:
    """The OPTIONAL_FLAGS that the host's argument parser mentions, each with its values."""
    text = "".join(path.read_text(encoding="utf-8") for path in cli_args)
    known = (flag for flag in OPTIONAL_FLAGS if f'"{flag}"' in text)
    return tuple(word for flag in known for word in (flag, *OPTIONAL_FLAGS[flag]))
