"""docs/formats.md says what the code does: its tables are compared with the code's own."""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from prolora.adapters import lora_state_dict
from prolora.adapters.accelerators import ACCELERATORS, accelerator_of
from prolora.adapters.dora import DoraAdapter
from prolora.adapters.file import MAKERS as MOVED
from prolora.adapters.suffixes import (
    BUNDLED,
    COMBINED,
    DIFFERENCES,
    MAGNITUDES,
    NORMS,
    NOT_MOVED,
    SHARED,
    SUFFIXES,
    split_key,
    split_unknown,
)
from prolora.adapters.tools import CHECKPOINT, OTHER_FILES, TOOLS, UNREADABLE
from prolora.models.key_map import OTHER_SPELLINGS, OWN_SPELLINGS, UNET_SPELLINGS, model_of
from prolora.models.model_folder import COMPONENTS
from prolora.models.module_names import canonical_name, is_text_encoder
from prolora.models.quantised import FORMS, UNMARKED, WITHOUT_WEIGHTS
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import CHOICES, NAMINGS
from prolora.naming.output_names import CONVENTIONS as ARCHITECTURES

from . import trainers_dora, trainers_lora, trainers_oft  # noqa: F401  # they fill CASES
from .library_files import FILES, VECTORS
from .pages import Row, tables
from .small_models import random_lora
from .trainers import CASES, CODE, NAMES, TEXT_ENCODERS
from .trainers_lora import VECTORS as VECTORS_ROW

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def table(*columns: str) -> list[Row]:
    """The one table that has these columns."""
    (rows,) = (rows for rows in tables(PAGE) if rows[0].keys() >= set(columns))
    return rows


def code(cell: str) -> list[str]:
    """What a cell has in backticks; nothing twice."""
    found = re.findall(r"`([^`]+)`", cell)
    assert len(found) == len(set(found)), cell
    return found


def by_name(rows: list[Row], column: str) -> dict[str, Row]:
    """The rows by a column, whose remarks in brackets are left out; nothing twice."""
    names = [re.sub(r" \(.*", "", row[column]) for row in rows]
    assert len(names) == len(set(names))
    return dict(zip(names, rows, strict=True))


BESIDE = {
    "DoRA": {**MAGNITUDES, **NORMS},
    "differences of norms and biases, and set weights": DIFFERENCES,
    "beside any family": SHARED,
}
NEWER = {f".{tensor}" for tensor in ("oft_R.cans_oft", "oft_R.cans_exp", "oft_R.clipped_oft")}
LEFT_OUT = {
    "modulation difference": NOT_MOVED,
    "bundled embeddings": {f"{BUNDLED}*": ""},
    "newer forms": dict.fromkeys(NEWER),
    **{name: {} for name in COMBINED.values()},
}


def test_the_keys_of_every_family():
    listed = {
        name: set(code(row["keys of a module"]))
        for name, row in by_name(table("family", "becomes"), "family").items()
    }
    assert listed == {name: set(keys) for name, keys in {**SUFFIXES, **BESIDE, **LEFT_OUT}.items()}


def test_the_newer_forms_are_known_by_no_table():
    for key in NEWER:
        assert split_key(f"m{key}") is None
        assert split_unknown(f"m{key}") == ("m", key.removeprefix("."))


# Library -> the package that it is in.
PACKAGES = {"LyCORIS": "lycoris-lora", "PEFT": "peft", "diffusers": "diffusers"}
PINNED = dict(
    line.split("==")
    for line in (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    if "==" in line
)


def versioned(tools: Iterable[str]) -> set[str]:
    """As the page names them: a library with its version, code with its commit or release."""
    known = {tool: (f"{tool} {PINNED[package]}") for tool, package in PACKAGES.items()}
    known |= {tool: f"{tool} `{short(commit)}`" for tool, (_, commit, _) in CODE.items()}
    return {known[tool] for tool in tools}


def short(commit: str) -> str:
    return commit[:7] if re.fullmatch("[0-9a-f]{40}", commit) else commit


def seen_in(cell: str) -> tuple[set[str], set[str]]:
    """What a cell says to be held against: files of ..., and code of ..."""
    found = {"files": set(), "code": set()}
    for clause in cell.split("; "):
        kind, of, tools = clause.partition(" of ")
        if of and kind in found:
            found[kind] = set(tools.split(", "))
    return found["files"], found["code"]


def test_every_row_of_a_family_says_what_it_was_checked_by():
    """The same writers as those of the tests, no row without one; FouRA is this project's own."""
    rows = by_name(table("family", "becomes"), "family")
    for name, row in rows.items():
        if name == "FouRA":
            assert "(foura.md)" in row["written by"]
            continue
        files = FILES.get(name, VECTORS if name == VECTORS_ROW else {})
        want = (versioned(files), versioned(CASES.get(name, ())))
        assert seen_in(row["written by"]) == want, name
        assert any(want), name
    assert {*FILES, *CASES, VECTORS_ROW} <= rows.keys()


def test_every_tool_says_where_its_names_were_seen():
    for row in table("tool", "example"):
        tool = row["tool"]
        (found,) = (one for one in seen_in(row["seen in"]) if one)
        assert found == versioned([tool]), tool
        assert set(code(row["example"])) == NAMES[tool], tool
    assert {row["tool"] for row in table("tool", "example")} == NAMES.keys()


def test_where_the_names_of_text_encoders_were_seen():
    *rows, last = table("text encoder", "by its own name, in the graph")
    assert last["text encoder"] == "seen in"
    for column, cell in last.items():
        if column == "text encoder":
            continue
        starts = {start for row in rows for start in code(row[column])}
        tools = set(cell.split(", "))
        known = [t for t, names in TEXT_ENCODERS.items() if names <= starts]
        assert starts == set().union(*(TEXT_ENCODERS[t] for t in known)), column
        assert tools == versioned({tool for group in known for tool in group}), column


def test_what_is_moved():
    rows = by_name(table("family", "becomes"), "family")
    moved = {name for name, row in rows.items() if row["becomes"] != "left out"}
    assert moved == {*MOVED, *BESIDE}


@dataclass(frozen=True)
class Known:
    """A small checkpoint without a host, and the key of one of its weights."""

    key: str

    def finds(self, name: str) -> bool:
        weights = StateDictWeights({f"model.{self.key}": torch.zeros(4, 4)})
        place = model_of("", weights).resolve(name)
        return place is not None and place.key == self.key


UNET = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
TRANSFORMER = "diffusion_model.blocks.0.self_attn.q.weight"


def examples() -> list[str]:
    return [name for row in table("tool", "example") for name in code(row["example"])]


@pytest.mark.parametrize("name", examples())
def test_every_example_of_a_module_is_read(name):
    assert [Known(UNET).finds(name), Known(TRANSFORMER).finds(name)].count(True) == 1


def test_every_direct_spelling_has_an_example():
    """But for one that ComfyUI reads and no tool of today writes."""
    rows = (OWN_SPELLINGS, UNET_SPELLINGS, *OTHER_SPELLINGS.values())
    spellings = {spelling for row in rows for spelling in row}
    starts = {spelling.partition("{")[0] for spelling in spellings} - {"unet.base_model.model."}
    assert {start for start in starts if any(e.startswith(start) for e in examples())} == starts


def test_every_tool_has_an_example():
    cells = [re.sub(r" \(.*", "", row["tool"]) for row in table("tool", "example")]
    known = {name for tool in TOOLS for name in re.split(", | or ", tool.name)}
    not_read = {"ProLoRA", "XLabs' Flux trainer", "a tool of the same naming"}
    assert set(cells) == known - not_read


def test_the_names_of_text_encoders():
    meant = []
    for row in table("text encoder", "by its own name, in the graph")[:-1]:
        starts = [start for cell in row.values() for start in code(cell)]
        layer = "text_model.encoder.layers.0.mlp.fc1"
        names = [s + (layer.replace(".", "_") if s.endswith("_") else layer) for s in starts]
        assert all(map(is_text_encoder, names))
        (one,) = {canonical_name(name) for name in names}
        meant.append(one)
    assert len(set(meant)) == len(meant)


def test_the_namings():
    rows = {code(row["naming"])[0]: row for row in table("naming", "for")}
    assert set(rows) == set(CHOICES) and len(rows) == len(table("naming", "for"))
    assert [n for n, row in rows.items() if row["for"] == "command line only"] == ["source"]
    lora = random_lora("x", (8, 4))
    adapter = DoraAdapter(lora, torch.ones(8, 1), axis=0)
    for name, (naming, *_) in NAMINGS.items():
        written = lora_state_dict([adapter], style=naming.style)
        suffixes = {key.removeprefix("x") for key in written}
        assert set(code(rows[name]["keys of a LoRA, a DoRA"])) == suffixes, name


def test_auto():
    """A name of every alternative of a pattern, under the row that `rename` takes for it."""
    known = {naming: name for name, namings in NAMINGS.items() for naming in namings}
    rows = table("architecture", "`auto`")
    for row, family in zip(rows, ARCHITECTURES, strict=True):
        names = code(row["architecture"])
        for name in names:
            assert next(f for f in ARCHITECTURES if re.match(f.pattern, name)) is family, name
        for alternative in family.pattern.split("|"):
            assert any(re.match(alternative, name) for name in names), alternative
        namings = {**known, family.kohya: "kohya"}
        assert code(row["`auto`"]) == [namings[naming] for naming in family.auto], names


def test_the_folders_of_diffusers():
    (row,) = (row for row in table("command line") if row[""].startswith("a folder of diffusers"))
    assert code(row["command line"]) == list(COMPONENTS)


def test_quantised_forms():
    listed = {}
    for row in table("form", "`comfy_quant`"):
        answer = row[""].partition(",")[0]
        for column in ("`comfy_quant`", "else the key"):
            for mark in code(row[column]):
                assert (column, mark) not in listed
                listed[column, mark] = (row["form"], answer)
    forms = [("`comfy_quant`", FORMS), ("else the key", UNMARKED)]
    known = {
        (column, mark): (form.name, "refused" if form.values is None else "read")
        for column, marks in forms
        for mark, form in marks.items()
    }
    known |= {("else the key", end): (name, "refused") for end, name in WITHOUT_WEIGHTS.items()}
    assert listed == known


def test_accelerators():
    rows = table("accelerator", "for example")
    assert [row["accelerator"] for row in rows] == [known.name for known in ACCELERATORS]
    for row in rows:
        (example,) = code(row["for example"])
        assert accelerator_of(f"{example}.safetensors", {}) == row["accelerator"]


def test_files_that_are_told_by_name():
    of_peft, *others = table("file", "advice")
    names = of_peft["file"].removeprefix("written by PEFT: ").split(", ")
    listed = [(f"{name}, written by PEFT", of_peft["advice"]) for name in names]
    listed += [(name, row["advice"]) for row in others for name in row["file"].split(", ")]
    known = [(kind.name, kind.advice) for kind in (*UNREADABLE, *OTHER_FILES, CHECKPOINT)]
    assert sorted(listed) == sorted(known)


def strings() -> list[str]:
    """Every string of the core, an ellipsis for what is filled in."""
    found = []
    for path in (ROOT / "prolora").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.append("".join(parts))
    return found


def test_every_quoted_message_is_in_the_code():
    rows = [*table("what", "the message"), *table("what", "the reason")]
    messages = strings()
    for row in rows:
        quoted = re.findall(r'"([^"]+)"', list(row.values())[1])
        assert quoted, row
        for words in quoted:
            assert any(words in message for message in messages), words


def test_links():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        file, _, heading = target.partition("#")
        assert (ROOT / "docs" / file).exists()
        headings = re.findall(r"^#+ (.*)", PAGE, re.MULTILINE)
        slugs = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert not heading or heading in slugs
