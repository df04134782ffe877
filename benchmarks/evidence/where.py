"""On what machine, with which versions and in how much time a part was measured."""

import json
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.machine import machine
from prolora import __version__

from .page import write_section
from .results import FOLDER
from .tables import markdown

_FILE = FOLDER / "where.json"
PACKAGES = ("torch", "numpy", "scipy", "safetensors", "transformers", "peft", "diffusers")


def note(part: str, seconds: float) -> None:
    """Notes this machine for a part, and adds to the time that its runs took."""
    noted = _noted()
    before = noted.get(part, {}).get("seconds", 0.0)
    noted[part] = {
        **machine(torch.device("cpu")),
        "prolora": __version__,
        **{name: _version(name) for name in PACKAGES},
        "seconds": round(float(before) + seconds),
    }
    _FILE.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def report() -> None:
    """A line a part."""
    lines = []
    for part, about in sorted(_noted().items()):
        versions = ", ".join(f"{name} {about[name]}" for name in ("prolora", *PACKAGES))
        minutes = f"{float(about['seconds']) / 60:.0f} min"
        lines.append([part, str(about["device"]), minutes, str(about["date"]), versions])
    header = ["part", "machine", "time", "last measured", "versions"]
    write_section("where", markdown(header, lines))


def _noted() -> dict[str, dict[str, str | int | float]]:
    return json.loads(_FILE.read_text(encoding="utf-8")) if _FILE.is_file() else {}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
