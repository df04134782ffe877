"""A hostile workflow by the API: every input of every node with what no page sends."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_harness.server import ComfyServer
from tests.host.checks import trespasses
from tests.host.probes import NODES
from tests.host.small_sd15 import write_small_sd15

from .asked import RAN, ask, files_below
from .hostile_prompts import LONG_TEXTS, PROMPTS, cases, good, recorded
from .hosts import version_of

pytestmark = pytest.mark.host

BEYOND = 2.0  # seconds that a hostile value may take beyond the node's work and its own way there
# Where a traceback in the log begins and ends.
TRACEBACK = re.compile(r"^Traceback .*?^(?=\S)(?!Traceback|During|The above)(.*?)$", re.M | re.S)


@pytest.fixture(scope="module")
def around(tmp_path_factory) -> Path:
    """What lies around a host: a file that is nobody's business, and its temporary files."""
    folder = tmp_path_factory.mktemp("around")
    (folder / "temporary").mkdir()
    (folder / "secret.safetensors").write_bytes(b"nobody's business")
    return folder


@pytest.fixture(scope="module")
def comfy(around) -> Iterator[ComfyServer]:
    models = around / "comfy" / "models"
    for place in ("checkpoints", "loras"):
        (models / place).mkdir(parents=True)
    write_small_sd15(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(around / "temporary"))
        with ComfyServer(around / "comfy", NODES) as server:
            server.client().queue(recorded().prompt)
            yield server


def outside(around: Path) -> dict[str, int]:
    """All files but those that a host may write."""
    own = ("output", "temp", "user", "comfyui.log")
    folders = tuple(str(around / "comfy" / name) for name in own)
    return {
        path: size for path, size in files_below(around).items() if not path.startswith(folders)
    }


def test_the_probe_sees_trespasses(comfy):
    """Else that it saw none would say nothing."""
    lines = (
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import pickle; pickle.loads(pickle.dumps(print))",
        "open('/etc/passwd').close()",
        "import pathlib; pathlib.Path('../written').write_text('x')",
        "import os; os.mkdir('/tmp/prolora_never'); os.rmdir('/tmp/prolora_never')",
        "import os; os.listdir('/etc')",
    )
    for line in lines:
        assert trespasses(comfy.client(), line), line
    assert not trespasses(
        comfy.client(), "open('models/x', 'a').close(); import os; os.remove('models/x')"
    )


def foreign_tracebacks(log: str) -> list[str]:
    """The ends of those that go through the pack and do not end with its own error."""
    return [
        found[1]
        for found in TRACEBACK.finditer(log)
        if "/custom_nodes/ComfyUI-ProLoRA/" in found[0]
        and not found[1].startswith("ProLoRAError")
        and not log[found.end() :].startswith(("\n\nThe above", "\n\nDuring"))  # it led to another
    ]


@pytest.mark.parametrize("node", PROMPTS)
def test_every_input(comfy, around, times, tell, node):
    client = comfy.client()
    inputs = client.object_info()[node]["input"]
    client.free()
    work = ask(comfy, good(node))
    assert work.kind == RAN
    before, log = outside(around), len(comfy.log_text())
    every = list(cases(node, inputs))
    chosen = every[:: max(len(every) // times(len(every)), 1)]
    answers, wrong = Counter(), []
    for case in chosen:
        given = ask(comfy, case.prompt)
        answers[given.kind] += 1
        way = ask(comfy, case.unused).seconds if case.value in LONG_TEXTS else 0
        if not given.is_fine or given.seconds > work.seconds + way + BEYOND:
            wrong.append(f"{case}: {given.kind} in {given.seconds:.1f} s: {given.text[:300]}")
    assert not wrong, "\n".join(wrong)
    assert outside(around) == before and not files_below(around / "temporary")
    assert not trespasses(client)
    assert not foreign_tracebacks(comfy.log_text()[log:])
    found = ", ".join(f"{count:,} {kind}" for kind, count in sorted(answers.items()))
    tell("hostile", f"{node}, every input", len(chosen), found, version_of(client))
