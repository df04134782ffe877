"""The nodes that the tests put beside the pack: the demo's, and those that look inside."""

from pathlib import Path

from comfy_harness.hosts import PACK_ROOT

NODES = {
    "emoji": PACK_ROOT / "demo" / "emoji",
    **{path.name: path for path in Path(__file__).parent.glob("probe_*.py")},
}
