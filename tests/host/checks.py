"""What a prompt must end with: an error on one node, or the LoRA that was meant."""

import json
import re
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from comfy_harness.client import PromptFailed

from .prompts import PromptBuilder


def fails(client, graph: PromptBuilder, node: list, *fragments: str) -> None:
    with pytest.raises(PromptFailed) as error:
        client.queue(graph.prompt)
    assert error.value.node_id == node[0]
    assert error.value.exception_type == "ProLoRAError"  # no path before the sentence
    for fragment in fragments:
        assert fragment in error.value.message


def saved_lora(comfy, prefix: str) -> dict[str, np.ndarray]:
    return load_file(max((comfy.folder / "output" / "loras").glob(f"{prefix}_*.safetensors")))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def delta_of(lora: dict[str, np.ndarray]) -> np.ndarray:
    """All updates of a file in one long vector; its scale is 1."""
    ups = sorted(key for key in lora if key.endswith("lora_up.weight"))
    return np.concatenate([(lora[u] @ lora[u.replace("_up", "_down")]).ravel() for u in ups])


def relative(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


# What a host from 2026 writes in colour.
_COLOURED = re.compile(r"(\x1b\[\d+m)+(\[[A-Z]+\]|Prompt executed in [\d.:]+( seconds)?)\x1b\[0m")


def steering_lines(log: str) -> list[str]:
    """The lines of a log that would steer a terminal, but for what is the host's own."""
    lines = _COLOURED.sub("", log).split("\n")
    return [line for line in lines if "\r" not in line and not line.isprintable()]


def trespasses(client, lines: str = "") -> list[str]:
    """What the pack did that it must never do; see ProbeAudit."""
    graph = PromptBuilder()
    node = graph.node("ProbeAudit", salt=time.monotonic_ns() % 2**30, trespass=lines)
    return json.loads(client.queue(graph.prompt).of(node[0])["text"][0])
