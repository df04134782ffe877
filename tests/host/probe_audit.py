"""Watches what the pack does while the tests run: Python tells an audit hook of every such thing.

The pack never opens a socket, runs a file, unpickles, writes outside of ComfyUI's folders, nor
reads outside of them and of the folders of the code. Something is its doing if one of its functions
is among those that called for it, on whatever thread. What a library does without Python
(safetensors opens files itself) is not seen here.
"""

import json
import os
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import folder_paths

_NEVER = frozenset(
    (
        *("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"),
        *("os.spawn", "os.fork", "os.forkpty", "os.startfile", "webbrowser.open"),
        *("socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"),
        *("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "ftplib.connect"),
    )
)
_WRITES = {
    **dict.fromkeys(
        ("os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate"), 1
    ),
    **dict.fromkeys(("os.utime", "shutil.rmtree", "shutil.chown"), 1),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile"), 2),
}
_READS = ("os.listdir", "os.scandir")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_HOME = Path(folder_paths.get_output_directory()).resolve().parent  # of all of the host's folders
_PACK = str(Path(folder_paths.get_output_directory()).parent / "custom_nodes" / "ComfyUI-ProLoRA")
_CODE = {
    *(Path(_PACK).resolve(), Path(folder_paths.__file__).parent),
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(Path("/proc"), Path("/sys"), Path(os.devnull)),
}
_found: list[str] = []


def _by_the_pack() -> str:
    """The innermost function of the pack that is at work here; "" where there is none."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith((f"{_PACK}/nodes", f"{_PACK}/prolora")):
            return f"{file.removeprefix(_PACK)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _is_home(path: str) -> bool:
    """Whether a file is in the host's folders, or is what a link there leads to."""
    place = _real(path)
    if place.is_relative_to(_HOME):
        return True
    entries = (entry for entry in (_HOME / "models").rglob("*") if entry.is_symlink())
    return any(place.is_relative_to(_real(entry)) for entry in entries if _is_usual(entry))


def _is_usual(entry: Path) -> bool:
    with suppress(OSError):  # a loop
        return entry.is_file() or entry.is_dir()
    return False


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _may_read(path: str) -> bool:
    return any(_real(path).is_relative_to(code) for code in _CODE) or _is_home(path)


def _trespasses(event: str, arguments: tuple) -> bool:
    if event in _NEVER:
        return True
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, str | bytes | os.PathLike):  # the number of what is open already
            return False
        allowed = _is_home if flags & _WRITE_FLAGS else _may_read
        return not allowed(os.fsdecode(path))
    allowed, count = (_is_home, _WRITES[event]) if event in _WRITES else (_may_read, 1)
    paths = [one for one in arguments[:count] if isinstance(one, str | bytes | os.PathLike)]
    return not all(allowed(os.fsdecode(path)) for path in paths)


def _hook(event: str, arguments: tuple) -> None:
    if event != "open" and event not in _NEVER and event not in _WRITES and event not in _READS:
        return
    where = _by_the_pack()
    if where and _trespasses(event, arguments):
        _found.append(f"{event} {arguments!r:.300} in {where}")


sys.addaudithook(_hook)


class ProbeAudit:
    """What was found so far. `trespass`: lines of Python that are run as if the pack had them."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"salt": ("INT", {"default": 0})},
            "optional": {"trespass": ("STRING", {"default": "", "multiline": True})},
        }

    def tell(self, salt, trespass=""):
        before = len(_found)
        for line in trespass.splitlines():
            with suppress(Exception):  # what matters is that it was tried
                exec(compile(line, f"{_PACK}/nodes/trespass.py", "exec"), {})
        found = _found[before:] if trespass else list(_found)
        if trespass:
            del _found[before:]
        return {"ui": {"text": [json.dumps(found)]}}


NODE_CLASS_MAPPINGS = {"ProbeAudit": ProbeAudit}
