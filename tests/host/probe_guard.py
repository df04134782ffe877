"""In a host of the tests, the pack opens no socket, unpickles nothing and starts no program."""

import importlib.util
import os
import pickle
import socket
import subprocess
import sys
from datetime import date
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "prolora_tests_guard", Path(__file__).resolve().parents[1] / "guard.py"
)
guard = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(guard)
sys.addaudithook(guard.hook_for_the_pack)

_PICKLE = pickle.dumps(date.today())
_FORBIDDEN = {
    "a socket": socket.socket,
    "an address": lambda: socket.getaddrinfo("localhost", 80),
    "a pickle": lambda: pickle.loads(_PICKLE),
    "a program": lambda: subprocess.run(["true"], check=False),
    "a shell": lambda: os.system("true"),
}


class ProbeGuard:
    """What the pack is kept from: each is tried from within a function of the pack, and not."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"salt": ("INT", {"default": 0})}}

    def tell(self, salt):
        name = next(name for name in sys.modules if name.endswith(".prolora.threads"))
        threads = sys.modules[name]
        refused = []
        for what, do in _FORBIDDEN.items():
            do()
            try:
                list(threads.in_threads((0,), lambda _, do=do: do(), print, threads.Limits(1)))
            except guard.Refused:
                refused.append(what)
        return {"ui": {"text": [", ".join(refused), ", ".join(_FORBIDDEN)]}}


NODE_CLASS_MAPPINGS = {"ProbeGuard": ProbeGuard}
