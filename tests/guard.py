"""What nothing may do while the tests run: connect to another machine, and, from the pack's code,
open a socket, unpickle or start a program.

It is an audit hook, which Python asks before it does any of these, whoever called it and however.
Whoever is refused may swallow the error; what was refused is kept in `caught` as well.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The pack's code, where it lies and where a host has it in custom_nodes/.
PACK = tuple(
    os.path.join("", *parts, "")  # noqa: PTH118 - a path would lose the last separator
    for folder in ("prolora", "nodes")
    for parts in ((str(ROOT), folder), ("custom_nodes", "ComfyUI-ProLoRA", folder))
)
# Event -> which of its arguments is the address.
ADDRESSES = {
    "socket.connect": 1,
    "socket.bind": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}
NEVER_FROM_THE_PACK = {
    "socket.__new__",
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "webbrowser.open",
}
HERE = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", None)  # noqa: S104 - compared, not bound

caught: list[str] = []
_allowed_here = False


class Refused(RuntimeError):
    """See `caught` as well."""


def hook(event: str, arguments: tuple[object, ...]) -> None:
    if event in ADDRESSES:
        address = arguments[ADDRESSES[event]]
        allowed = _allowed_here or event == "socket.bind"  # urllib3 does so when it is imported
        if not (allowed and is_here(address)) or _from_the_pack():
            _refuse(f"{event} {address}")
    elif event in NEVER_FROM_THE_PACK and _from_the_pack():
        _refuse(f"{event} {arguments[:2]}")


def is_here(address: object) -> bool:
    """An address of this machine: of its own network, or a file."""
    if isinstance(address, tuple):
        address = address[0]
    return address in HERE or str(address).startswith(("/", "\0"))


@contextmanager
def connections_within_this_machine(allowed: bool) -> Iterator[None]:
    """For tests of a host, which is another process."""
    global _allowed_here
    before, _allowed_here = _allowed_here, allowed
    try:
        yield
    finally:
        _allowed_here = before


def _from_the_pack() -> bool:
    """Whether the pack's code is at work; what a library does when it is imported is its own."""
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        if any(folder in frame.f_code.co_filename for folder in PACK):
            return True
        frame = frame.f_back
    return False


def _refuse(what: str) -> None:
    caught.append(what)
    raise Refused(f"a test reached for {what}")
