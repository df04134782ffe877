"""Pairs given by hand: the JSON, what is wrong with it, and what a report gives back."""

import json

import pytest
import torch

from prolora.errors import ProLoRAError
from prolora.pairing.block_pairs import parse_pairs, read_pairs
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of
from prolora.transfer.settings import TransferSettings

from .small_models import delta
from .stacks import block, lora_for, model, noisy, stack

PARENT = [block(seed) for seed in range(5)]
SOURCE = stack(PARENT) | {"img_in": block(50)["mlp.0"]}
CHILD = [noisy(PARENT[i], 0.2, i) for i in (0, 2, 3)]
TARGET = stack(CHILD) | {"img_in": noisy({"w": SOURCE["img_in"]}, 0.2)["w"]}
FILE = lora_for(SOURCE)


def run(pairs=None, target=TARGET, file=FILE, **choices):
    settings = TransferSettings(**{"threshold": 0.0, "pairs": pairs or {}, **choices})
    return transfer_lora(file, model("A", SOURCE), model("B", target), settings)


GOOD = {
    "bare": (
        '{"blocks.0": "blocks.1", "blocks.2": null}',
        {"blocks.0": "blocks.1", "blocks.2": None},
    ),
    "under pairs": ('{"pairs": {"a": "b"}, "rows": [1]}', {"a": "b"}),
    "none": ('{"pairs": {}}', {}),
    "nothing": ("", {}),
    "blanks": (" \n\t", {}),
    "no pairs": ("{}", {}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_read(kind, tmp_path):
    text, pairs = GOOD[kind]
    assert parse_pairs(text) == pairs
    path = tmp_path / "pairs.json"
    path.write_text(text, encoding="utf-8")
    assert read_pairs(path) == pairs


BROKEN = {
    "no JSON": ("blocks.0: blocks.1", "this is no JSON"),
    "cut": ('{"pairs": {"blocks.0"', "this is no JSON"),
    "a list": ('["blocks.0", "blocks.1"]', "there are no pairs in it"),
    "a path of a megabyte": (f'{{"{"a." * 500_000}": null}}', "is not a pair"),
    "a number": ("7", "there are no pairs in it"),
    "null": ("null", "there are no pairs in it"),
    "a list of pairs": ('{"pairs": [["blocks.0", "blocks.1"]]}', "there are no pairs in it"),
    "pairs of null": ('{"pairs": null}', "there are no pairs in it"),
    "a number for a block": ('{"blocks.0": 1}', "'blocks.0': 1 is not a pair"),
    "a list for a block": ('{"blocks.0": ["blocks.1"]}', "is not a pair"),
    "true": ('{"blocks.0": true}', "is not a pair"),
    "an empty source": ('{"blocks.0": ""}', "is not a pair"),
    "an empty target": ('{"": "blocks.0"}', "is not a pair"),
    "a report of others": ('{"rows": [], "lora": "x"}', "is not a pair"),
    "twice": ('{"blocks.0": "blocks.1", "blocks.0": "blocks.2"}', "blocks.0 is in it twice"),
    "deep": ("[" * 100_000, "this is no JSON"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_pairs(kind):
    text, words = BROKEN[kind]
    with pytest.raises(ProLoRAError) as error:
        parse_pairs(text, "mine.json")
    assert str(error.value).startswith("mine.json: ")
    assert words in str(error.value)
    assert 'Write {"pairs": {"target block": "source block"}}' in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "is no text in UTF-8. Save it"),
        (None, "does not exist. Is the name right"),
    ],
)
def test_a_file_that_cannot_be_read(content, words, tmp_path):
    path = tmp_path / "pairs.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ProLoRAError, match=rf"pairs\.json {words}"):
        read_pairs(path)


UNKNOWN = {
    "target block": (
        {"blocks.7": "blocks.1"},
        "blocks.7, which the target does not have. In blocks",
    ),
    "source block": (
        {"blocks.1": "blocks.9"},
        "blocks.9, which the source does not have. In blocks",
    ),
    "a block of the source only": ({"blocks.4": "blocks.4"}, "blocks.4, which the target does not"),
    "below a block": (
        {"blocks.0.attn.z": None},
        r"blocks.0.attn.z, .* In blocks.0.attn are: q, out",
    ),
    "elsewhere": ({"double_blocks.0": None}, "does not have. There are: blocks, img_in"),
    "a key": ({"diffusion_model.blocks.0": None}, "There are: blocks, img_in"),
    "a dot too many": ({"blocks..0": None}, "which the target does not have"),
    "empty": ({"": None}, "which the target does not have"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_there(kind):
    pairs, words = UNKNOWN[kind]
    with pytest.raises(ProLoRAError, match=words):
        run(pairs)


def same(one, other):
    assert [adapter.name for adapter in one.adapters] == [a.name for a in other.adapters]
    for ours, theirs in zip(one.adapters, other.adapters, strict=True):
        assert torch.equal(ours.up, theirs.up)
        assert torch.equal(ours.down, theirs.down)


def test_the_report_gives_the_same_again():
    first = run()
    text = first.report.to_json()
    assert json.loads(text)["pairs"] == {
        "blocks.0": "blocks.0",
        "blocks.1": "blocks.2",
        "blocks.2": "blocks.3",
    }
    again = run(parse_pairs(text))
    same(first, again)
    assert again.report.pairs == first.report.pairs
    assert again.report.rows == first.report.rows
    assert any("as given" in note for note in again.report.notes)


def test_the_report_gives_the_same_again_where_a_block_is_left_out():
    first = run({"blocks.1": None, "blocks.0": "blocks.4"})
    again = run(parse_pairs(first.report.to_json()))
    assert first.report.pairs == {"blocks.0": "blocks.4", "blocks.1": None, "blocks.2": "blocks.3"}
    same(first, again)
    statuses = {row.name: row.status for row in again.report.rows}
    assert statuses["lora_unet_blocks_4_mlp_0"] == "moved"
    assert statuses["lora_unet_blocks_2_mlp_0"] == "skipped"


LINED_UP = stack([noisy(each, 0.2, i) for i, each in enumerate(PARENT)]) | {
    "img_in": TARGET["img_in"]
}


def names_of(result):
    return {adapter.name for adapter in result.adapters}


def test_null_leaves_out_where_the_names_agree():
    """The same name in the target is no way round what was given."""
    module = "lora_unet_blocks_{}_mlp_0".format
    plain = run(target=LINED_UP)
    assert {module(i) for i in range(5)} <= names_of(plain)
    result = run({"blocks.2": None}, LINED_UP)
    assert names_of(plain) - names_of(result) == {
        f"lora_unet_blocks_2_{part}" for part in ("attn_q", "attn_out", "mlp_0")
    }
    (row,) = [row for row in result.report.rows if row.name == module(2)]
    assert (row.status, row.reason) == (
        "skipped",
        "no block of the target B takes the source's blocks.2",
    )
    assert result.report.pairs["blocks.2"] is None


def test_another_block_where_the_names_agree():
    """Two source modules never end in one place of the target."""
    result = run({"blocks.2": "blocks.1"}, LINED_UP)
    names = [adapter.name for adapter in result.adapters]
    assert len(names) == len(set(names)) == 13
    (row,) = [row for row in result.report.rows if row.name == "lora_unet_blocks_2_mlp_0"]
    assert row.reason == "no block of the target B takes the source's blocks.2"
    (moved,) = [row for row in result.report.rows if row.name == "lora_unet_blocks_1_mlp_0"]
    assert moved.target_key == "diffusion_model.blocks.2.mlp.0.weight"
    summary = summary_of(result.report)
    assert "without a source: 1" in summary
    assert "unmatched in the source: 2" in summary
    again = run(parse_pairs(result.report.to_json()), LINED_UP)
    assert names_of(again) == names_of(result)


def test_single_modules():
    pairs = {"blocks.2.mlp.0": "blocks.1.mlp.0", "blocks.3.attn.q": None, "img_in": "img_in"}
    result = run(pairs, LINED_UP)
    names = [adapter.name for adapter in result.adapters]
    assert len(names) == len(set(names)) == 14
    assert "lora_unet_blocks_3_attn_q" not in names
    assert "lora_unet_blocks_1_mlp_0" not in names  # the source's is asked for elsewhere
    made = {adapter.name: delta(adapter) for adapter in result.adapters}
    copied = run(pairs, LINED_UP, mode="copy")
    (lora,) = [a for a in FILE.adapters if a.name == "lora_unet_blocks_1_mlp_0"]
    (moved,) = [a for a in copied.adapters if a.name == "lora_unet_blocks_2_mlp_0"]
    assert abs(delta(moved) - delta(lora)).max() < 1e-6
    assert made.keys() == set(names)
    again = run(parse_pairs(result.report.to_json()), LINED_UP)
    assert {a.name: delta(a).tolist() for a in again.adapters} == {
        k: d.tolist() for k, d in made.items()
    }


def test_modules_with_nothing_in_common():
    with pytest.raises(
        ProLoRAError, match=r"give img_in for blocks.2, which have no module in comm"
    ):
        run({"blocks.2": "img_in"}, LINED_UP)


def test_a_module_given_inside_of_a_block_given():
    pairs = {"blocks.2": "blocks.1", "blocks.2.mlp.0": "blocks.4.mlp.0"}
    for given in (pairs, dict(reversed(pairs.items()))):
        result = run(given, LINED_UP, mode="copy")
        names = [adapter.name for adapter in result.adapters]
        assert len(names) == len(set(names)) == 12
        by = {adapter.name: delta(adapter) for adapter in result.adapters}
        loras = {adapter.name: delta(adapter) for adapter in FILE.adapters}
        for target, source in (("2_mlp_0", "4_mlp_0"), ("2_attn_q", "1_attn_q")):
            gap = by[f"lora_unet_blocks_{target}"] - loras[f"lora_unet_blocks_{source}"]
            assert abs(gap).max() < 1e-6


def test_everything_left_out():
    pairs = dict.fromkeys(("blocks.0", "blocks.1", "blocks.2", "img_in"))
    with pytest.raises(ProLoRAError, match="Nothing of the LoRA"):
        run(pairs)
