"""Comparing two models: figures against the dense reference, rows for all that has no figure."""

import csv
import io
from dataclasses import replace

import pytest
import torch

from prolora.comparison.figures import Comparison, Row, compare
from prolora.comparison.text import summary, table, to_csv
from prolora.errors import ProLoRAError
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.pairing.block_pairs import parse_pairs, write_pairs
from prolora.transfer.settings import TransferSettings

from .compared_models import SHAPES, compared, tuned, weights, without_block
from .dense_reference import dense_pair, dense_similarity, dense_subspace
from .small_models import drifted, matrix, model_of, random_weight


def row_of(comparison: Comparison, target: str) -> Row:
    (row,) = [row for row in comparison.rows if row.target == target]
    return row


@pytest.mark.parametrize("energy", [0.5, 0.8])
def test_every_figure_is_that_of_the_dense_reference(energy):
    source = weights(3)
    target = tuned(source)
    comparison = compared(source, target, subspace_energy=energy)
    assert len(comparison.rows) == len(source) == 10
    for row in comparison.rows:
        pair = [matrix(w[row.target]) for w in (source, target)]
        own = [dense_subspace(weight, energy).rank for weight in pair]
        assert [row.source_rank, row.target_rank] == own
        one, other = dense_pair(*pair, energy)
        left, right = dense_similarity(one, other)
        assert row.similarity.left == pytest.approx(left, abs=1e-4)
        assert row.similarity.right == pytest.approx(right, abs=1e-4)
        chances = (max(one.rank, other.rank) / len(side) for side in (one.P, one.Q))
        pairs = zip((left, right), chances, strict=True)
        corrected = min((phi - c) / (1 - c) for phi, c in pairs if c < 1)
        assert row.corrected == pytest.approx(corrected, abs=1e-3)
        assert 0.2 < row.corrected < 0.99  # neither equal nor unrelated: a swap would be seen


def test_how_many_a_transfer_leaves_out():
    source = weights(3)
    scores = sorted(row.similarity.score for row in compared(source, tuned(source)).rows)
    between = (scores[3] + scores[4]) / 2
    comparison = compared(source, tuned(source), threshold=between)
    assert comparison.below == 4
    assert f"4 of 10 weights below a transfer's threshold {between:g}" in summary(comparison)


def test_blocks_are_those_that_correspond():
    source = weights(4)
    target = tuned(without_block(source, 1), drift=0.1)
    comparison = compared(source, target)
    assert comparison.pairs == {f"blocks.{i}": f"blocks.{s}" for i, s in enumerate((0, 2, 3))}
    assert parse_pairs(write_pairs(comparison.pairs)) == comparison.pairs
    row = row_of(comparison, "blocks.1.attn.q")
    assert (row.source, row.block, row.source_block) == ("blocks.2.attn.q", "blocks.1", "blocks.2")
    assert row.module == "attn.q"
    assert all(row.corrected > 0.8 for row, _ in comparison.measured)
    alone = [row for row in comparison.rows if not row.target]
    assert [row.source for row in alone] == [f"blocks.1.{name}" for name in SHAPES]
    assert {row.reason for row in alone} == {"nothing in the target takes it"}
    lines = table(comparison).splitlines()
    labels = [line.split("  ")[0] for line in lines if "attn.q " in line]
    assert labels == ["blocks.0", "blocks.1 <- 2", "blocks.2 <- 3", "(source) blocks.1"]
    assert len(lines) == 1 + len(comparison.rows)


def test_a_block_that_nothing_serves():
    source = weights(2)
    target = tuned(source, drift=0.1)
    target |= {key.replace("blocks.0", "blocks.2"): w for key, w in weights(1, first=500).items()}
    comparison = compared(source, target)
    row = row_of(comparison, "blocks.2.conv")
    assert (row.source, row.similarity, row.corrected) == ("", None, None)
    assert row.reason == "its block is unmatched"
    assert comparison.pairs["blocks.2"] is None
    assert "its block is unmatched" in summary(comparison)


def test_pairs_that_are_given_go_first():
    source = weights(2)
    comparison = compared(source, tuned(source), pairs={"blocks.0": "blocks.1", "blocks.1": None})
    assert row_of(comparison, "blocks.0.conv").source == "blocks.1.conv"
    assert row_of(comparison, "blocks.1.conv").reason == "its block is unmatched"


def test_identical_weights_are_not_decomposed(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("decomposed")

    monkeypatch.setattr("prolora.comparison.figures.common_subspaces", refuse)
    comparison = compared(weights(2), weights(2))
    assert [row.corrected for row in comparison.rows] == [1.0] * 7
    assert {row.similarity.score for row in comparison.rows} == {1.0}
    assert "7 are identical" in summary(comparison)


def test_parts_of_a_fused_weight():
    """q, k and v in one weight of the target, split in the source."""
    parts = {f"blocks.0.attn.to_{part}": random_weight((16, 16), i) for i, part in enumerate("qkv")}
    other = {"blocks.0.mlp": random_weight((8, 16), 7)}
    fused = torch.cat([drifted(w, 0.2, seed=i + 50) for i, w in enumerate(parts.values())])
    comparison = compared(parts | other, {"blocks.0.attn.qkv": fused} | other)
    rows = [row for row in comparison.rows if row.module.startswith("attn.qkv")]
    assert [row.module for row in rows] == [f"attn.qkv[{i}:{i + 16}]" for i in (0, 16, 32)]
    assert [row.source for row in rows] == list(parts)
    for i, (row, weight) in enumerate(zip(rows, parts.values(), strict=True)):
        part = fused[16 * i : 16 * (i + 1)]
        want = dense_similarity(*dense_pair(matrix(weight), matrix(part), 0.8))
        assert (row.similarity.left, row.similarity.right) == pytest.approx(want, abs=1e-4)


def test_what_cannot_be_compared_has_a_reason():
    source = weights(2)
    target = tuned(source)
    target["embed"] = random_weight((16, 9))
    target["extra"] = random_weight((4, 4))
    source["gone"] = random_weight((4, 4))
    target["blocks.0.conv"][0, 0, 0, 0] = float("nan")
    comparison = compared(source, target)
    reasons = {row.target or row.source: row.reason for row in comparison.rows if row.reason}
    nan = reasons.pop("blocks.0.conv")
    assert "blocks.0.conv.weight of B" in nan
    assert "NaN" in nan
    assert reasons == {"embed": "another width", "extra": "not in A", "gone": "not in B"}
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert len(rows) == len(comparison.rows) == 9
    assert {row["target"]: row["phi_left"] for row in rows if row["reason"]} == dict.fromkeys(
        ("embed", "extra", "", "blocks.0.conv"), ""
    )
    figures = {row["target"]: float(row["phi_left"]) for row in rows if not row["reason"]}
    assert figures["blocks.1.conv"] == row_of(comparison, "blocks.1.conv").similarity.left


def test_a_side_that_is_all_subspace_says_nothing():
    """Of a 2 x n weight both left vectors are leading ones: chance alone gives 1 there."""
    q = torch.linalg.qr(random_weight((24, 2))).Q.T
    source, target = q.clone(), drifted(q, 0.3)
    (row,) = compared({"narrow": source}, {"narrow": target}).rows
    assert row.similarity.left_chance == 1
    assert row.corrected == row.similarity.right_corrected < 1


@pytest.mark.parametrize("blocks", [0, 1])
def test_few_blocks(blocks):
    source = weights(blocks)
    comparison = compared(source, tuned(source))
    assert len(comparison.measured) == len(source)
    assert summary(comparison)
    assert table(comparison)


def with_text_encoder(model: Model) -> Model:
    """As host and command line name it: the module's own name is that of no text encoder."""
    found = {k: r for k, r in model.key_map.items() if k != "encoder"}
    return replace(model, key_map=found | {"lora_te_encoder": model.key_map["encoder"]})


@pytest.mark.parametrize("side", [0, 1])
def test_a_text_encoder_that_one_model_lacks_is_left_out(side):
    source = weights(1)
    models = [model_of("A", source), model_of("B", tuned(source))]
    models[side] = with_text_encoder(
        model_of("AB"[side], source | {"encoder": random_weight((4, 4))})
    )
    comparison = compare(*models, TransferSettings())
    assert len(comparison.rows) == 4
    has, lacks = "AB"[side], "BA"[side]
    assert comparison.notes == (
        f"{lacks} comes without a text encoder, so that of {has} was not compared.",
    )


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"other": random_weight((4, 4))}, "A (SDXL) and B (SDXL): no weight of the one fits"),
        (
            {"embed": random_weight((16, 9))},
            "embed, is 16 x 8 in the source and 16 x 9 in the target",
        ),
        ({"embed": torch.full((16, 8), torch.inf)}, "embed.weight of B"),
    ],
)
def test_models_with_nothing_to_compare(target, words):
    with pytest.raises(ProLoRAError) as error:
        compared(weights(0), target)
    assert words in str(error.value)


def test_it_tells_how_far_it_is_and_can_be_cancelled():
    told = []
    source = weights(2)
    models = model_of("A", source), model_of("B", tuned(source))
    compare(*models, TransferSettings(), lambda done, total, name: told.append((done, total)))
    assert list(dict.fromkeys(told)) == [(i, 7) for i in range(8)]  # some are told again

    def cancel(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(*models, TransferSettings(), cancel)


def test_of_a_fused_weight_the_least_similar_part_counts():
    """As in a transfer, where each part moves by itself."""
    ours = torch.cat([random_weight((16, 16), seed) for seed in range(3)])
    theirs = drifted(ours, 0.1)
    theirs[16:32] = random_weight((16, 16), 9)
    models = []
    for name, weight in (("A", ours), ("B", theirs)):
        parts = {f"m.{p}": WeightRef("m.weight", Slice(0, 16 * i, 16)) for i, p in enumerate("qkv")}
        weights = StateDictWeights({"m.weight": weight})
        models.append(Model(name, "SDXL", weights, {"m": WeightRef("m.weight"), **parts}))
    (row,) = compare(*models, TransferSettings()).rows
    want = dense_similarity(*dense_pair(matrix(ours[16:32]), matrix(theirs[16:32]), 0.8))
    whole = dense_similarity(*dense_pair(matrix(ours), matrix(theirs), 0.8))
    assert abs(min(want) - min(whole)) > 0.05
    assert row.similarity.score == pytest.approx(min(want), abs=1e-4)
