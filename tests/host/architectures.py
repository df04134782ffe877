"""docs/architectures.md and fixtures/inventories/, made and measured in a real ComfyUI.

    COMFYUI_PATH=/path/to/ComfyUI make architectures

writes both anew. It takes a ComfyUI that knows every architecture of inventories/ORDER; a new one
begins as a file there with a head and no tensors.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from comfy_harness.client import ComfyClient
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from fixtures import inventory
from fixtures.inventory import Inventory
from prolora.models import key_map
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import NAMINGS
from prolora.pairing.module_tree import Node, module_tree

PROBES = {"probe_architectures.py": Path(__file__).with_name("probe_architectures.py")}
PAGE = PACK_ROOT / "docs" / "architectures.md"

INTRO = """\
# Architectures

For each of these models the names and shapes of all weights lie in `fixtures/inventories/`, as
ComfyUI's own classes have them. A test writes a checkpoint of them that holds no data, loads it in
ComfyUI as *Load Source LoRA* does, writes a LoRA of every module in every naming, reads that as
ComfyUI does, pairs it with the model and makes the report: all of a transfer but the arithmetic,
for which the host tests have small models.

- *blocks*: the lists of blocks that are found in the names, with those inside them. Where two
  models differ in depth, blocks are paired within these lists.
- *modules*: the linear layers and convolutions of the diffusion model.
- *addressed*: those that have a LoRA name in ComfyUI; *paired*: those that a file in any of the
  namings reaches again.
- *kohya*, *comfyui*, *diffusers*, *peft*: how many modules have a name in that `naming` of *Save
  Transferred LoRA*. The others go by another name in its file, and are paired all the same.
- *text encoders*: modules with a name, of those in the usual checkpoint.
- *names*: how many names ComfyUI has for the weights of the usual file, biases and lone parameters
  included; *command line*: how many of them mean the same there.

"""
OUTRO = """
The columns of namings count the names that ComfyUI knows. For Wan and Cosmos it knows none of the
diffusers library's, and for HunyuanVideo those of a few modules: LoRAs with such names are not
loaded by ComfyUI either.

## Without ComfyUI

The command line has the names of the architectures above from a file's keys and from tables
(`prolora/models/`), whatever the keys of its diffusion model begin with, by the authors' names or
the diffusers library's, with the text encoders beside it. Only ComfyUI knows:

- what tools call the modules of any other architecture. The command line knows those by the file's
  own names, in every tool's spelling of them ([formats.md](formats.md)). HiDream's, LTX-Video's or
  Kandinsky 5's LoRAs have no others; Krea 2's may have the diffusers library's, and those of
  ACE-Step 1.5 may leave out `decoder.`.
- the diffusers library's names of a UNet whose levels are not all of one size.
- names that it changes before it reads a LoRA: those of Flux' control LoRAs and of USO.
- which text encoder a folder of diffusers has, but for CLIP and T5: its modules go by
  `text_encoder.` and their own names.

Made with ComfyUI 0.33 by `make architectures`; a test compares the page.
"""


@dataclass(frozen=True)
class Measured:
    """What a host and the pack made of an architecture's file; see ProbeArchitecture.

    Attributes:
        refused: why nothing; "" if it was loaded.
    """

    refused: str = ""
    architecture: str = ""
    shapes: Mapping[str, list[int]] | None = None
    addressed: tuple[str, ...] = ()
    names: Mapping[str, Mapping[str, Any]] | None = None
    text_encoders: int = 0
    namings: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def key_map(self) -> dict[str, WeightRef]:
        """The host's, for the weights of the file."""
        return {name: _ref(place) for name, place in (self.names or {}).items()}


def _ref(place: Mapping[str, Any]) -> WeightRef:
    part = place["part"]
    return WeightRef(place["key"], part and Slice(*part), place["halves_swapped"])


# In a host


def measure(client: ComfyClient, folder: Path, name: str) -> Measured:
    """Loads an architecture's file, of which nothing but the header is written."""
    path = folder / "models" / "unet" / f"{name}.safetensors"
    inventory.write_header_only(path, inventory.shapes(name))
    try:
        return Measured(**ask(client, "ProbeArchitecture", file_name=path.name))
    finally:
        path.unlink()


def class_shapes(client: ComfyClient, known: Inventory, text_encoders: bool = False) -> Any:
    """Names and shapes of an architecture, as the host's class has them."""
    figures = {"host_class": known.host_class, "config": json.dumps(known.config)}
    found = ask(client, "ProbeClass", text_encoders=text_encoders, **figures)
    return {key: tuple(shape) for key, shape in found.items()}


def ask(client: ComfyClient, node: str, **inputs: Any) -> Any:
    done = client.queue({"1": {"class_type": node, "inputs": inputs}})
    return json.loads(done.of("1")["text"][0])


# The page

COLUMNS = ("model", "ComfyUI's class", "parameters", "blocks", "modules")
MEASURED = ("addressed", "paired", *NAMINGS, "text encoders", "names", "command line")


def own_columns(known: Inventory) -> dict[str, str]:
    """What a row says that needs no host."""
    values = (
        known.title,
        f"`{known.host_class}`",
        f"{known.parameters / 1e9:.2f} B",
        block_lists(module_tree(model_of(known))),
        str(len(known.modules)),
    )
    return dict(zip(COLUMNS, values, strict=True))


def measured_columns(known: Inventory, measured: Measured) -> dict[str, str]:
    """The rest of it."""
    namings, all_of_them = measured.namings or {}, len(known.modules)
    counts = {
        "addressed": len(measured.addressed),
        "paired": min(len(naming["paired"]) for naming in namings.values()),
        **{name: all_of_them - naming["otherwise"] for name, naming in namings.items()},
    }
    words = {0: "none", all_of_them: "all"}
    cells = {column: words.get(count, str(count)) for column, count in counts.items()}
    host, ours = measured.key_map, without_a_host(known).key_map
    same = sum(ours.get(name) == place for name, place in host.items())
    return cells | {
        "text encoders": str(measured.text_encoders or ""),
        "names": str(len(host)),
        "command line": "all" if same == len(host) else str(same),
    }


def page(rows: Iterable[Mapping[str, str]]) -> str:
    columns = (*COLUMNS, *MEASURED)
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return INTRO + "".join(f"| {' | '.join(line)} |\n" for line in lines) + OUTRO


class Shapes(dict[str, tuple[int, ...]]):
    """Weights without data."""

    def shape(self, key: str) -> tuple[int, ...]:
        return self[key]

    def read(self, key: str) -> torch.Tensor:
        raise AssertionError(f"{key} was read")


def without_a_host(known: Inventory) -> Model:
    """The usual file as the command line knows it."""
    return key_map.model_of(known.title, Shapes(known.file_shapes()))


def model_of(known: Inventory) -> Model:
    """The diffusion model with a name for every weight, and no weights."""
    tensors = {k: torch.empty(shape, device="meta") for k, shape in known.tensors.items()}
    names = {key.removesuffix(".weight"): WeightRef(key) for key in tensors}
    return Model(known.title, known.host_class, StateDictWeights(tensors), names)


def block_lists(tree: Node) -> str:
    """As `6 input_blocks (24 transformer_blocks), 3 middle_block (10 transformer_blocks)`.

    A block that is alone in its list and has none inside counts only within others.
    """
    counts: Counter[str] = Counter()
    inner: dict[str, list[Node]] = {}
    for node in _outermost_lists(tree):
        name = node.path.rpartition(".")[2]
        blocks = [entry for entry in node.entries.values() if entry.is_block]
        counts[name] += len(blocks)
        inner.setdefault(name, []).extend(blocks)
    found = []
    for name, count in counts.items():
        inside = block_lists(Node(children={str(i): node for i, node in enumerate(inner[name])}))
        if count > 1 or inside or not tree.named:
            found.append(f"{count} {name}" + (f" ({inside})" if inside else ""))
    return ", ".join(found)


def _outermost_lists(node: Node) -> list[Node]:
    """Lists of blocks that have a name and lie in no other."""
    found = []
    for name, child in node.children.items():
        is_list = not name.isdigit() and any(entry.is_block for entry in child.entries.values())
        found += [child] if is_list else _outermost_lists(child)
    return found


def main() -> None:
    known = {name: inventory.inventory(name) for name in inventory.names()}
    with tempfile.TemporaryDirectory() as name, ComfyServer(Path(name), PROBES) as server:
        client, folder = server.client(), server.folder
        for name, head in known.items():
            if head.text_encoders:
                found = class_shapes(client, head, text_encoders=True)
                inventory.write_text_encoders(head.text_encoders, found)
            found = class_shapes(client, head)
            inventory.write_inventory(name, replace(head, tensors=found))
            known[name] = inventory.inventory(name)  # in the order of the file
        measured = {name: measure(client, folder, name) for name in known}
    for name, found in measured.items():
        known[name] = replace(known[name], names=inventory.names_digest(found.key_map))
        inventory.write_inventory(name, known[name])
    rows = (own_columns(head) | measured_columns(head, measured[n]) for n, head in known.items())
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
