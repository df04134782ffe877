"""The two names of every module of a UNet of SD1.x, SD2.x or SDXL: ldm's and diffusers'.

Checkpoints have ldm's, diffusers folders the other; LoRA files use both. The UNets have as many
residual blocks in every level on the way down (two; KOALA and the like one), one more on the way
up, and a sampler between levels. ldm counts blocks through, so its numbers depend on how many.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class _Row:
    """Templates. n counts ldm's blocks: Levels.size a level, after conv_in on the way down.

    The upsampler follows the attention of its block, where there is one: `sampler` is 2, else 1.
    """

    ldm: str
    diffusers: str


_ROWS = (
    _Row("input_blocks.0.0", "conv_in"),
    _Row("out.0", "conv_norm_out"),
    _Row("out.2", "conv_out"),
    _Row("time_embed.0", "time_embedding.linear_1"),
    _Row("time_embed.2", "time_embedding.linear_2"),
    _Row("label_emb.0.0", "class_embedding.linear_1"),
    _Row("label_emb.0.2", "class_embedding.linear_2"),
    _Row("label_emb.0.0", "add_embedding.linear_1"),
    _Row("label_emb.0.2", "add_embedding.linear_2"),
    _Row("input_blocks.{n}.0.op", "down_blocks.{level}.downsamplers.0.conv"),
    _Row("input_blocks.{n}.0.{resnet}", "down_blocks.{level}.resnets.{index}.{resnet}"),
    _Row("input_blocks.{n}.1.{attention}", "down_blocks.{level}.attentions.{index}.{attention}"),
    _Row("middle_block.0.{resnet}", "mid_block.resnets.0.{resnet}"),
    _Row("middle_block.1.{attention}", "mid_block.attentions.0.{attention}"),
    _Row("middle_block.2.{resnet}", "mid_block.resnets.1.{resnet}"),
    _Row("output_blocks.{n}.{sampler}.conv", "up_blocks.{level}.upsamplers.0.conv"),
    _Row("output_blocks.{n}.0.{resnet}", "up_blocks.{level}.resnets.{index}.{resnet}"),
    _Row("output_blocks.{n}.1.{attention}", "up_blocks.{level}.attentions.{index}.{attention}"),
)
_RESNET_TO_DIFFUSERS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_RESNET_TO_LDM = {theirs: ldm for ldm, theirs in _RESNET_TO_DIFFUSERS.items()}
_OF_A_UNET = re.compile(
    r"(input_blocks|middle_block|output_blocks)\.\d+\.|"
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets|attentions|downsamplers|upsamplers)\."
)
_FIELDS = {
    **{"n": r"\d+", "level": r"\d+", "index": r"\d+", "sampler": "[12]"},
    "resnet": "|".join(map(re.escape, _RESNET_TO_DIFFUSERS | _RESNET_TO_LDM)),
    "attention": r"norm|proj_in|proj_out|transformer_blocks\..+",
}


@dataclass(frozen=True)
class Levels:
    """What the names of a UNet's modules depend on.

    Attributes:
        size: ldm's blocks of a level: on the way down its residual blocks and the sampler, on the
            way up as many residual blocks.
        attentive: diffusers' levels on the way up that have attention.
    """

    size: int
    attentive: frozenset[int]


def is_unet(names: Iterable[str]) -> bool:
    """Whether a model has such names, ldm's or diffusers': of whatever size and depth."""
    return any(map(_OF_A_UNET.match, names))


def levels_of(names: Collection[str]) -> Levels | None:
    """From all names of a UNet, ldm's or diffusers'; None where its levels differ in size."""
    samplers = {int(n) for n, _ in _found(r"input_blocks\.(\d+)\.0\.(op)\.", names)}
    resnets: dict[str, set[str]] = defaultdict(set)
    for level, index in _found(r"down_blocks\.(\d+)\.resnets\.(\d+)\.", names):
        resnets[level].add(index)
    sizes = {after - before for before, after in pairwise(sorted({0} | samplers))}
    sizes |= {len(blocks) + 1 for blocks in resnets.values()}
    if len(sizes) > 1:
        return None
    attentive = (int(level) for level, _ in _found(r"up_blocks\.(\d+)\.(attentions)\.", names))
    return Levels(size=sizes.pop() if sizes else 3, attentive=frozenset(attentive))


def _found(pattern: str, names: Collection[str]) -> set[tuple[str, str]]:
    matches = (re.match(pattern, name) for name in names)
    return {(match[1], match[2]) for match in matches if match is not None}


def _pattern(template: str) -> re.Pattern[str]:
    fields = {name: f"(?P<{name}>{pattern})" for name, pattern in _FIELDS.items()}
    return re.compile(template.replace(".", r"\.").format(**fields))


_LDM = [(_pattern(row.ldm), row) for row in _ROWS]
_DIFFUSERS = [(_pattern(row.diffusers), row) for row in _ROWS]


def ldm_to_diffusers(module: str, levels: Levels) -> Iterator[str]:
    """The names in diffusers; none for a module that these UNets do not have."""
    for pattern, row in _LDM:
        match = pattern.fullmatch(module)
        if match is not None:
            found = match.groupdict()
            block = int(found.get("n", 0)) - row.diffusers.startswith("down_blocks")
            level, index = divmod(block, levels.size)
            found["resnet"] = _RESNET_TO_DIFFUSERS.get(found.get("resnet", ""), "")
            yield row.diffusers.format(**{**found, "level": level, "index": index})


def diffusers_to_ldm(module: str, levels: Levels) -> str | None:
    """The name in ldm, None for one that these UNets do not have."""
    for pattern, row in _DIFFUSERS:
        match = pattern.fullmatch(module)
        if match is not None:
            found = match.groupdict()
            level, index = int(found.get("level", 0)), int(found.get("index", levels.size - 1))
            n = levels.size * level + index + row.diffusers.startswith("down_blocks")
            found["resnet"] = _RESNET_TO_LDM.get(found.get("resnet", ""), "")
            sampler = 1 + (level in levels.attentive)
            return row.ldm.format(**{**found, "n": n, "sampler": sampler})
    return None
