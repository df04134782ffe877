"""The pack in a real host is kept from sockets, pickles and programs while the host tests run."""

import pytest

from comfy_harness.server import ComfyServer

from ..guard import REFUSED
from .probes import NODES

pytestmark = pytest.mark.host


def test_what_the_pack_is_kept_from(tmp_path, graph):
    with ComfyServer(tmp_path, NODES) as server:
        node = graph.node("ProbeGuard", salt=1)
        refused, tried = server.client().queue(graph.prompt).of(node[0])["text"]
        assert refused == tried
        assert server.log_text().count(REFUSED) == tried.count(",") + 1
