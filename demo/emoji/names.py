"""The pictures that the demo's models can draw, by emoji short name."""

import json
from pathlib import Path

NAMES: list[str] = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))


def parse_names(text: str) -> list[str]:
    """Split a comma-separated list of short names; raise on one that the models never saw."""
    names = [name.strip() for name in text.replace("\n", ",").split(",") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        problem = f"unknown emoji {', '.join(unknown)}" if unknown else "no emoji is named"
        raise ValueError(f"{problem}. The demo's models know: {', '.join(NAMES)}")
    return names
