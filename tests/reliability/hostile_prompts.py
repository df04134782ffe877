"""A prompt for each node of the pack that runs, and what an enemy would write into its inputs."""

import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from tests.host.prompts import PromptBuilder, out
from tests.host.small_sd15 import LORA, RECORDING, SOURCE, TARGET

LONG = 1_000_000  # letters
# What no page sends. Each stands for a kind: one that climbs, one that is absolute, and so on.
TEXTS = {
    "nothing": "",
    "a climbing path": "../../../../../../etc/passwd",
    "a climbing path inside": "loras/../../../escaped.safetensors",
    "an absolute path": "/etc/passwd",
    "a device": "/dev/zero",
    "a drive": "C:\\Windows\\win.ini",
    "a share": "\\\\server\\share\\x.safetensors",
    "a home": "~/x.safetensors",
    "a URL": "http://127.0.0.1:9/x.safetensors",
    "a file URL": "file:///etc/passwd",
    "NUL": "a\0b.safetensors",
    "dots at the end": "x.safetensors...",
    "a dot": ".",
    "two dots": "..",
    "a long name": "x" * 300,
    "a long path": "x/" * 3000,
    "markup": "<img src=x onerror=\"document.title='hacked'\">.safetensors",
    "a colour": "\x1b[31mred\x1b[0m\x07",
    "lines": "a\nb\r\nc",
    "right to left": "\u202efdp.srotcesnetefas",
    "half a letter": "a\ud800b",
    "a number": "12.5",
    "no number": "nan",
    "a template": "%date:yyyy%{0}{self}$(id)`id`",
    "an option": "--help; rm -rf x | cat",
}
# Of those, what is written into texts alone: it is long.
LONG_TEXTS = {
    "a megabyte": "y" * LONG,
    "many tags": "<lora:" * 1000,
    "deep": "[" * 100_000,
    "a deep object": '{"a":' * 100_000,
    "a million pairs": "{" + ",".join(f'"a.{n}":"b.{n}"' for n in range(1_000_000)) + "}",
    "one name twice": '{"a": "b", "a": "c"}',
    "numbers as pairs": '{"a": 1, "b": [2], "c": NaN}',
    "a huge number as a pair": '{"a": ' + "9" * 10_000 + "}",
    "a name of a megabyte twice": f'{{"{"z" * LONG}": "b", "{"z" * LONG}": "c"}}',
}
NUMBERS: dict[str, Any] = {
    "zero": 0,
    "minus one": -1,
    "a huge number": 10**30,
    "a huge negative number": -(10**30),
    "an endless number": 10**400,
    "a fraction": 0.123,
    "1e308": 1e308,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "64 bits": 2**64,
}
OTHERS: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "an object": {"a": 1},
    "a wrapped list": {"__value__": [1, 2]},
    "a wrapped null": {"__value__": None},
}
# Lists, which written down are links.
LISTS: dict[str, Any] = {"a list": [], "a list of lists": [[1, 2], [3]]}
# Links that lead nowhere, which a host refuses itself; in an optional input of any node they end
# the worker of a host from June 2024.
BAD_LINKS: dict[str, Any] = {
    "an empty list": [],
    "a list of three": [1, 2, 3],
    "a list of lists": [["1", 0], 0],
    "a link to nothing": ["999", 0],
    "a link beyond": ["1", 99],
    "a link to itself": None,  # filled in
}
# Of those, what comes by a link as well.
LINKED = (
    *("nothing", "a climbing path", "NUL", "half a letter", "a long path", "markup", "a number"),
    *("minus one", "a huge number", "a fraction", "NaN", "infinity"),
    *("null", "true", "a list", "a list of lists", "an object"),
)
VALUES = TEXTS | NUMBERS | OTHERS


@dataclass(frozen=True)
class Case:
    """An input of a node, and a value for it.

    Attributes:
        prompt: with the value.
        unused: with the value in an input that no node has.
    """

    node: str
    input: str
    value: str
    prompt: Mapping[str, Any]
    unused: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.node}.{self.input} = {self.value}"


def _text(graph: PromptBuilder, node: list, output: int) -> None:
    graph.node("PreviewAny", source=out(node, output))


def _applied(graph: PromptBuilder, model: list, name: str) -> None:
    graph.node("ProbeFingerprint", model=model)


def _moved(graph: PromptBuilder, **inputs: Any) -> list:
    lora = graph.source(LORA, source_checkpoint=SOURCE)
    return graph.transfer(lora, graph.checkpoint(TARGET), **inputs)


def _transfer(graph: PromptBuilder) -> list:
    source = graph.source(LORA, source_checkpoint=SOURCE)
    model = graph.checkpoint(TARGET)
    node = graph.transfer(
        source, model, clip=out(model, 1), copy_identical=True, pairs="", unserved=0.0
    )
    _text(graph, node, 1)
    return node


def _load_source(graph: PromptBuilder) -> list:
    node = graph.source(LORA, source_checkpoint=SOURCE)
    _text(graph, node, 1)
    return node


def _load_for_model(graph: PromptBuilder) -> list:
    model = graph.checkpoint(TARGET)
    more = {"clip": out(model, 1), "mode": "full", "threshold": 0.5, "cache_gb": 1}
    node = graph.load_for_model(model, LORA, source_checkpoint=SOURCE, **more)
    _applied(graph, node, "one")
    return node


def _stack(graph: PromptBuilder) -> list:
    model = graph.checkpoint(TARGET)
    more = {"clip": out(model, 1), "mode": "full", "threshold": 0.5, "cache_gb": 1}
    node = graph.stack(model, f"{LORA} 0.5", source_checkpoint=SOURCE, **more)
    _applied(graph, node, "stack")
    return node


def _apply(graph: PromptBuilder) -> list:
    moved = _moved(graph)
    model = graph.checkpoint(TARGET)
    node = graph.apply(model, moved, clip=out(model, 1))
    _applied(graph, node, "applied")
    return node


def _save(graph: PromptBuilder) -> list:
    return graph.save(_moved(graph), "loras/hostile", "fp16", "auto")


def _report(graph: PromptBuilder) -> list:
    node = graph.node("ProLoRAReport", lora=_moved(graph), filename_prefix="reports/hostile")
    _text(graph, node, 1)
    return node


def _similarity(graph: PromptBuilder) -> list:
    model = graph.checkpoint(TARGET)
    given = {"source_checkpoint": SOURCE, "subspace_energy": 0.8, "pairs": ""}
    node = graph.node("ProLoRASimilarity", model=model, **given)
    _text(graph, node, 1)
    return node


def _prompts(graph: PromptBuilder) -> list:
    clip = out(graph.checkpoint(SOURCE), 1)
    node = graph.node("ProLoRAPrompts", clip=clip, text="TRIGGER, a cat", trigger_words="x")
    _text(graph, node, 0)
    return node


def _recorded(graph: PromptBuilder) -> list:
    loaded = graph.checkpoint(SOURCE)
    lora = graph.source(LORA, source_checkpoint=SOURCE)
    prompts = graph.node("ProLoRAPrompts", clip=out(loaded, 1), text="a cat\na dog")
    negative = graph.node("ProLoRAPrompts", clip=out(loaded, 1), text="a mouse")
    latent = graph.node("EmptyLatentImage", width=64, height=64, batch_size=1)
    return graph.node(
        "ProLoRARecord",
        source_lora=lora,
        model=loaded,
        positive=prompts,
        negative=negative,
        clip=out(loaded, 1),
        latent_image=latent,
        samples=5,
        seed=1,
        steps=2,
        cfg=2.0,
        sampler_name="euler",
        scheduler="normal",
        levels=1,
        positions=16,
        sample_with_lora=True,
    )


def _record(graph: PromptBuilder) -> list:
    node = _recorded(graph)
    _text(graph, node, 1)
    return node


def _save_recording(graph: PromptBuilder) -> list:
    recording = graph.node("ProLoRALoadRecording", recording_name=RECORDING)
    return graph.node(
        "ProLoRASaveRecording", recording=recording, filename_prefix="recordings/hostile"
    )


def _load_recording(graph: PromptBuilder) -> list:
    node = graph.node("ProLoRALoadRecording", recording_name=RECORDING)
    _text(graph, node, 1)
    return node


def _refine(graph: PromptBuilder) -> list:
    recording = graph.node("ProLoRALoadRecording", recording_name=RECORDING)
    node = graph.refine(graph.checkpoint(TARGET), _moved(graph), recording, steps=1, batch=1)
    _text(graph, node, 1)
    return node


def _extract(graph: PromptBuilder) -> list:
    node = graph.extract(SOURCE, TARGET, rank=2)
    _text(graph, node, 1)
    return node


def _preview(graph: PromptBuilder) -> list:
    return graph.node("PreviewAny", source=out(_load_source(graph), 1))


PROMPTS: Mapping[str, Callable[[PromptBuilder], list]] = {
    "ProLoRALoadForModel": _load_for_model,
    "ProLoRAStack": _stack,
    "ProLoRALoadSource": _load_source,
    "ProLoRATransfer": _transfer,
    "ProLoRAApply": _apply,
    "ProLoRASave": _save,
    "ProLoRASimilarity": _similarity,
    "ProLoRAPrompts": _prompts,
    "ProLoRARecord": _record,
    "ProLoRASaveRecording": _save_recording,
    "ProLoRALoadRecording": _load_recording,
    "ProLoRARefine": _refine,
    "ProLoRAExtract": _extract,
    "PreviewAny": _preview,
    "ProLoRAReport": _report,
}


def good(node: str) -> Mapping[str, Any]:
    """A prompt with a node that runs."""
    graph = PromptBuilder()
    PROMPTS[node](graph)
    return graph.prompt


def recorded() -> PromptBuilder:
    """Makes RECORDING."""
    graph = PromptBuilder()
    graph.node(
        "ProLoRASaveRecording", recording=_recorded(graph), filename_prefix="recordings/my_style"
    )
    return graph


def cases(node: str, inputs: Mapping[str, Any]) -> Iterator[Case]:
    """Each input of a node with each value, in a prompt that runs but for it.

    A value is written into the prompt, or comes by a link that fits every input.

    Args:
        inputs: INPUT_TYPES of the node, as the host tells it.
    """
    graph = PromptBuilder()
    place = PROMPTS[node](graph)[0]
    required = inputs.get("required", {})

    def case(name: str, label: str, value: Any, more: Mapping[str, Any] = {}) -> Case:
        prompt, unused = deepcopy(graph.prompt) | more, deepcopy(graph.prompt)
        prompt[place]["inputs"][name] = unused[place]["inputs"]["unused"] = value
        return Case(node, name, label, prompt, unused)

    for name, declared in {**required, **inputs.get("optional", {})}.items():
        is_text = declared[0] == "STRING"
        for label, value in (VALUES | LONG_TEXTS if is_text else VALUES).items():
            yield case(name, label, value)
        for label in LINKED:
            value = (VALUES | LISTS)[label]
            linked = {"class_type": "ProbeAnything", "inputs": {"text": json.dumps(value)}}
            yield case(name, f"{label}, linked", ["linked", 0], {"linked": linked})
        latent = {"width": 64, "height": 64, "batch_size": 1}
        latent = {"class_type": "EmptyLatentImage", "inputs": latent}
        yield case(name, "a latent", ["latent", 0], {"latent": latent})
        for label, value in BAD_LINKS.items() if name in required else ():
            yield case(name, label, value or [place, 0])
