"""A host of its own for the campaign: the demo's models and the probes, in its own folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from comfy_harness.client import ComfyClient
from comfy_harness.server import ComfyServer
from demo.run import link_models
from tests.host.probes import NODES

OLDEST = "June 2024"  # which does not tell its version


@contextmanager
def host_in(folder: Path, packs: Mapping[str, Path] | None = None) -> Iterator[ComfyServer]:
    """A running host.

    Args:
        packs: other packs to load beside ours, by the name of their folder.
    """
    link_models(folder)
    with ComfyServer(folder, {**NODES, **(packs or {})}) as server:
        yield server


def version_of(client: ComfyClient) -> str:
    """Of the host, as docs/reliability.md names it."""
    return str(client.system_stats()["system"].get("comfyui_version") or OLDEST)
