"""Settings and models that do not go together: transfers, comparisons, differences."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from prolora.adapters import LoraAdapter, lora_state_dict, parse_adapter_file
from prolora.adapters.dora import DoraAdapter
from prolora.extraction.extract import extract_difference
from prolora.extraction.settings import ExtractionSettings
from prolora.models.references import Slice
from prolora.pairing.block_pairs import parse_pairs, read_pairs
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .. import compared_models, small_transfer, stacks
from ..compared_models import compared
from ..small_extraction import full_model
from ..small_models import file_of, random_lora, random_weight
from ..small_transfer import DRIFTED, FILE, WEIGHTS
from .case import NAN, Case, Table, ones, written

TRANSFER = (
    "ProLoRA Transfer, Load LoRA for Model, Load LoRA Stack for Model, `prolora transfer`, "
    "`prolora batch`"
)
SOURCE = stacks.stack([stacks.block(seed) for seed in range(3)])
TARGET = stacks.noisy(SOURCE, 0.2)


def run(**given: object) -> Callable[[], object]:
    return lambda: small_transfer.run(**given)


def setting(**choice: object) -> Callable[[], object]:
    return lambda: TransferSettings(**choice)


def difference(**choice: object) -> Callable[[], object]:
    return lambda: ExtractionSettings(**choice)


def wider() -> object:
    target = {k: random_weight((w.shape[0] + 8, 16)) for k, w in WEIGHTS.items()}
    return small_transfer.run(target=target)


def broken(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "linear": weights["linear"] * NAN}


def other_architecture() -> object:
    source = stacks.stack([{"x_block.attn.qkv": random_weight((24, 8))}] * 12, "joint_blocks")
    target = stacks.stack([{"img_attn.qkv": random_weight((24, 8), 1)}] * 9, "double_blocks")
    models = (
        stacks.model("A", source, architecture="SD3"),
        stacks.model("B", target, architecture="Flux"),
    )
    return transfer_lora(stacks.lora_for(source), *models, TransferSettings(threshold=0.0))


def strangers() -> object:
    blocks = [
        {
            n: random_weight(tuple(w.shape), 50 + 7 * i + j)
            for j, (n, w) in enumerate(stacks.block(0).items())
        }
        for i in range(5)
    ]
    models = (stacks.model("A", SOURCE), stacks.model("B", stacks.stack(blocks)))
    return transfer_lora(stacks.lora_for(SOURCE), *models, TransferSettings(threshold=0.0))


def text_encoder_alone() -> object:
    name = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    return small_transfer.run(
        file_of(random_lora(name, (16, 8))),
        {name: random_weight((16, 8))},
        {"img_in": random_weight((16, 8))},
    )


def not_to_be_joined() -> object:
    qkv = random_weight((24, 8))
    split = {f"attn.to_{p}": qkv[8 * i : 8 * i + 8] + 0.1 for i, p in enumerate("qkv")}
    query = DoraAdapter(random_lora("only_q", (8, 8)), ones(8, 1), axis=0)
    file = file_of(random_lora("lora_unet_attn_qkv", (24, 8)), query)
    source = stacks.model("A", {"attn.qkv": qkv}, {"only_q": ("attn.qkv", Slice(0, 0, 8))})
    return transfer_lora(file, source, stacks.model("B", split), TransferSettings(threshold=0.0))


def beyond_all_bounds() -> object:
    huge = LoraAdapter("linear", torch.full((24, 2), 1e30), torch.full((2, 16), 1e30), None)
    return small_transfer.run(file_of(huge, *FILE.adapters[1:]))


def ia3() -> object:
    return small_transfer.run(parse_adapter_file({"linear.ia3_l": ones(24, 1)}, "ia3.safetensors"))


def in_half_precision(size: float) -> Callable[[], object]:
    adapter = LoraAdapter("linear", torch.full((24, 2), size), torch.full((2, 16), size), None)
    return lambda: lora_state_dict([adapter], torch.float16)


def one_name_twice() -> object:
    one = random_lora("linear", (24, 16))
    return lora_state_dict([one, replace(one, up=one.up * 2)])


SETTINGS = Table(
    "Settings of a transfer",
    TRANSFER,
    (
        Case("a mode that there is not", setting(mode="everything"), "There is no mode"),
        Case("a threshold above 1", setting(threshold=1.2), "The threshold is 1.2"),
        Case("a threshold below 0", setting(threshold=-0.1), "The threshold is -0.1"),
        Case("a threshold that is no number", setting(threshold=NAN), "The threshold is nan"),
        Case("an endless threshold", setting(threshold=float("inf")), "The threshold is inf"),
        Case(
            "an energy of 1, which leaves no null space",
            setting(subspace_energy=1.0),
            "The subspace energy is 1",
        ),
        Case(
            "an energy of 0, which leaves no subspace",
            setting(subspace_energy=0.0),
            "The subspace energy is 0",
        ),
        Case("a share above 1 for unserved blocks", setting(unserved=2.0), "unserved blocks is 2"),
        Case("a rank below 0", setting(rank=-1), "The rank is -1"),
        Case(
            "a rank that no module can have",
            run(settings=TransferSettings(rank=5000)),
            "larger than possible",
        ),
        Case("fewer than no workers", setting(workers=-1), "workers is -1"),
        Case("less than no memory", setting(memory=-1), "The memory is -1"),
        Case(
            "a precision that the projection does not run in",
            setting(dtype=torch.float16),
            "float32 or float64",
        ),
        Case(
            "a device that is not there",
            setting(device=torch.device("cuda:99")),
            "cuda:99 is not there",
        ),
        Case(
            "mode calibrated without a recording",
            run(settings=TransferSettings(mode="calibrated")),
            "needs a recording",
        ),
    ),
)

MODELS = Table(
    "LoRA, source and target that do not fit",
    TRANSFER,
    (
        Case(
            "a source that has none of the LoRA's modules",
            run(source={"other": random_weight((24, 16))}),
            "none of its 3 modules",
        ),
        Case(
            "a source whose weights have other sizes",
            run(source={**WEIGHTS, "linear": random_weight((24, 32))}),
            "does not fit the source",
        ),
        Case("a target of another width", wider, "their widths differ"),
        Case("a target of another architecture", other_architecture, "no blocks in common"),
        Case("a target of the same names and foreign weights", strangers, "no block of the target"),
        Case("a LoRA of the text encoder, and no CLIP", text_encoder_alone, "connect a CLIP"),
        Case("NaN in the source", run(source=broken(WEIGHTS)), "holds NaN"),
        Case("NaN in the target", run(target=broken(DRIFTED)), "holds NaN"),
        Case(
            "a source in whole numbers",
            run(source={**WEIGHTS, "linear": WEIGHTS["linear"].to(torch.int8)}),
            "a quantised form",
        ),
        Case("a LoRA that grows beyond all bounds", beyond_all_bounds, "beyond all bounds"),
        Case("a family that is not moved (IA3)", ia3, "IA3"),
        Case(
            "a DoRA and a LoRA of one weight, split in the target",
            not_to_be_joined,
            "cannot be joined",
        ),
        Case("a result too large for fp16", in_half_precision(1e6), "float16 cannot hold"),
        Case("a result too small for fp16", in_half_precision(1e-9), "rounds to nothing"),
        Case("two modules of one name in the written file", one_name_twice, "Two modules"),
    ),
)


def pairs(text: str) -> Callable[[], object]:
    return lambda: parse_pairs(text, "pairs.json")


def with_pairs(**given: str | None) -> Callable[[], object]:
    named = {key.replace("__", "."): value for key, value in given.items()}
    models = (stacks.model("A", SOURCE), stacks.model("B", TARGET))
    settings = TransferSettings(threshold=0.0, pairs=named)
    return lambda: transfer_lora(stacks.lora_for(SOURCE), *models, settings)


PAIRS = Table(
    "Pairs of blocks by hand",
    "ProLoRA Transfer and ProLoRA Similarity (`pairs`), `--pairs`",
    (
        Case(
            "a file that does not exist", lambda: read_pairs(Path("pairs.json")), "does not exist"
        ),
        Case(
            "a file that is no text",
            lambda: read_pairs(written("pairs.json", b"\xff\xfe\0")),
            "no text in UTF-8",
        ),
        Case("no JSON", pairs("blocks.0: blocks.1"), "this is no JSON"),
        Case("brackets without end", pairs("[" * 100_000), "this is no JSON"),
        Case("a list", pairs('["blocks.0", "blocks.1"]'), "no pairs in it"),
        Case("a number for a block", pairs('{"blocks.0": 1}'), "is not a pair"),
        Case("a block without a name", pairs('{"": "blocks.0"}'), "is not a pair"),
        Case(
            "a block twice",
            pairs('{"blocks.0": "blocks.1", "blocks.0": "blocks.2"}'),
            "is in it twice",
        ),
        Case(
            "a block that the target does not have",
            with_pairs(blocks__7="blocks.1"),
            "the target does not have",
        ),
        Case(
            "a block that the source does not have",
            with_pairs(blocks__1="blocks.9"),
            "the source does not have",
        ),
        Case(
            "a module that a block does not have",
            with_pairs(blocks__0__attn__z=None),
            "does not have",
        ),
        Case(
            "two that have nothing in common",
            with_pairs(blocks__2="blocks.1.attn.q"),
            "no module in common",
        ),
        Case(
            "pairs that leave out everything",
            with_pairs(**{f"blocks__{i}": None for i in range(3)}),
            "Nothing of the LoRA",
        ),
    ),
)


def compare_with(target: dict[str, torch.Tensor]) -> Callable[[], object]:
    return lambda: compared(compared_models.weights(3), target)


def extract(target: dict[str, torch.Tensor]) -> Callable[[], object]:
    return lambda: extract_difference(stacks.model("A", SOURCE), stacks.model("B", target))


OTHERS = Table(
    "Two models that are compared, or taken from each other",
    "ProLoRA Similarity, Extract Difference as LoRA, `prolora similarity`, `prolora extract`",
    (
        Case(
            "models with nothing in common",
            compare_with({"x.y.z": random_weight((3, 3))}),
            "no weight of the one fits",
        ),
        Case(
            "models of other widths",
            compare_with(
                {
                    k: random_weight((w.shape[0] + 1, w.shape[1] + 1, *w.shape[2:]))
                    for k, w in compared_models.weights(3).items()
                }
            ),
            "cannot be compared",
        ),
        Case(
            "a model and itself",
            lambda: extract_difference(full_model("A"), full_model("A")),
            "Nothing of A differs",
        ),
        Case(
            "models of other depths",
            extract({k: w for k, w in TARGET.items() if not k.startswith("blocks.2")}),
            "differ in depth",
        ),
        Case(
            "models of other sizes",
            extract(
                {k: random_weight((w.shape[0] * 2, w.shape[1] * 2)) for k, w in TARGET.items()}
            ),
            "differ in width",
        ),
        Case(
            "models of other names",
            extract({f"x{k}": w for k, w in TARGET.items()}),
            "modules in common",
        ),
        Case("NaN in one of them", extract({k: w * NAN for k, w in TARGET.items()}), "holds NaN"),
        Case("a rank below 0", difference(rank=-1), "The rank is -1"),
        Case("an energy of 0", difference(energy=0.0), "The energy is 0"),
        Case("an energy above 1", difference(energy=1.1), "The energy is 1.1"),
        Case(
            "a least difference of 1, which leaves out all",
            difference(least=1.0),
            "least difference is 1",
        ),
        Case(
            "a precision that is not taken in",
            difference(dtype=torch.float16),
            "float32 or float64",
        ),
    ),
)

TABLES = (SETTINGS, MODELS, PAIRS, OTHERS)
