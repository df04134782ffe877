"""The module names of the written file: the same updates under the names of a chosen tool.

The target's key map alone says which weight a name means. Some tools name a fused weight (`qkv`),
others name its parts (`to_q`, `to_k`, `to_v`); a LoRA converts exactly between the two.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..adapters import LoraAdapter, Part
from ..models.module_names import by_canonical_name, canonical_name, is_text_encoder
from ..models.references import WeightRef
from ..models.transformers_model import TRANSFORMERS
from .fused import Piece, regroup


@dataclass(frozen=True)
class Naming:
    """How a tool names modules.

    Attributes:
        patterns: regular expressions for names in the key map; the first that matches decides.
        style: of the suffixes; see writing.STYLES.
        rewrites: (pattern, replacement) for a tool whose spelling is not in the key map. ComfyUI
            may not load such a name.
    """

    patterns: tuple[str, ...]
    style: str
    rewrites: tuple[tuple[str, str], ...] = ()


# Module names of the models' authors; the diffusers library uses other names.
_AUTHORS = (
    r"(double_blocks|single_blocks|joint_blocks|input_blocks|output_blocks|middle_block|"
    r"time_embed|label_emb|out|final_layer)\.|blocks\.\d+\.(self|cross)_attn"
)
_DIFFUSERS = Naming(
    (
        rf"unet\.(?!base_model\.|{_AUTHORS})",
        rf"transformer\.(?!{_AUTHORS})",
        r"text_encoder(_\d)?\.",
    ),
    "peft",
    ((r"\.processor\.(to_\w+)$", r".\1"), (r"(\.attn\d\.to_out)$", r"\1.0")),
)
# Module names of the diffusers library for a UNet; the authors use other names.
_LIBRARY = r"(down|up|mid)_block|conv_(in|out)$|(time|add)_embedding"
_COMFYUI = Naming(
    (rf"diffusion_model\.(?!{_LIBRARY})", r"diffusion_model\.", r"text_encoders\."), "kohya"
)
_KOHYA = Naming(
    (
        rf"lora_unet_(?!{_LIBRARY}|.*_processor_)",
        *(r"lora_te3_", r"lora_te2_", r"lora_te1_", r"lora_(unet|te|prior)"),
    ),
    "kohya",
)
# For SD1.x and SD2.x kohya's trainer uses the names of the diffusers library.
_KOHYA_SD1 = Naming(
    (rf"lora_unet_({_LIBRARY})(?!.*_processor_)", r"lora_te_", r"lora_(unet|te)"),
    "kohya",
)
_TO_PEFT = (r"^(unet|transformer|diffusion_model)\.", "base_model.model.")
# PEFT uses the names of the model that it wraps.
_PEFT = tuple(
    replace(naming, style="peft", rewrites=(*naming.rewrites, _TO_PEFT))
    for naming in (_DIFFUSERS, _COMFYUI)
)
# PEFT's own names for a model of transformers are in its key map.
_TRANSFORMERS = Naming((r"base_model\.model\.",), "peft")
# Of several namings, the one is used that leaves the most modules fused or split as they are.
NAMINGS = {
    "kohya": (_KOHYA,),
    "comfyui": (_COMFYUI,),
    "diffusers": (_DIFFUSERS,),
    "peft": (*_PEFT, _TRANSFORMERS),
}
CHOICES = ("auto", "source", *NAMINGS)


@dataclass(frozen=True)
class Convention:
    """How LoRA files of an architecture usually name their modules.

    Attributes:
        pattern: matches the architecture's name, the host's or ours (architectures.py).
        auto: the usual namings, the most usual first.
        foreign: matches names in the host's key map that belong to another model of the class.
        kohya: the naming of kohya's trainer for this architecture.
    """

    pattern: str
    auto: tuple[Naming, ...]
    foreign: str = r"(?!)"
    kohya: Naming = _KOHYA


# The first row that matches wins.
CONVENTIONS = (
    Convention(TRANSFORMERS, (_TRANSFORMERS,)),
    Convention(r"SD1|SD2", (_KOHYA_SD1,), kohya=_KOHYA_SD1),
    Convention(r"SDXL|SSD1B|Segmind|KOALA", (_KOHYA,)),
    Convention(r"SD3", (_DIFFUSERS, _KOHYA)),
    Convention(
        r"Flux\.?2",
        (_COMFYUI,),
        r".*(\.ff(_context)?\.net\.|single_transformer_blocks\.\d+\.(proj_|attn\.to_[qkv]$))",
    ),
    Convention(
        r"Flux|Chroma",
        (_DIFFUSERS, _KOHYA),
        r".*(to_qkv_mlp_proj$|\.linear_(in|out)$|single_transformer_blocks\.\d+\.attn\.to_out$)",
    ),
    Convention(r"HiDream|PixArt|AuraFlow|HunyuanDiT", (_DIFFUSERS, _COMFYUI)),
    # Wan, Qwen-Image, Z-Image, HunyuanVideo, LTX and newer ones. In a host of June 2024, no
    # text encoder has a name of _COMFYUI, and _KOHYA is used for all modules.
    Convention("", (_COMFYUI, _KOHYA)),
)


@dataclass(frozen=True)
class Renamed:
    """Adapters under the names of a file.

    Attributes:
        adapters: the renamed adapters.
        style: of the suffixes; see writing.STYLES.
        notes: what the user must know, a line each.
    """

    adapters: tuple[Part, ...]
    style: str
    notes: tuple[str, ...] = ()


def rename(
    adapters: Iterable[Part],
    names: Mapping[str, WeightRef],
    architecture: str,
    choice: str = "auto",
) -> Renamed:
    """The same updates under other module names.

    A module without a name in the chosen naming keeps a name of the key map, and a note says so.

    Args:
        adapters: the updates, by names of the target.
        names: the target's key map.
        architecture: the target's architecture, as its Model has it.
        choice: one of CHOICES. `auto` is the usual naming of the architecture's files, with names
            of `names` only; `source` keeps all names.
    """
    adapters = tuple(adapters)
    if choice == "source":
        return Renamed(adapters, "kohya")
    family = next(row for row in CONVENTIONS if re.match(row.pattern, architecture))
    namings = {**NAMINGS, "kohya": (family.kohya,), "auto": family.auto}[choice]
    groups = _by_weight(adapters, names)
    plans = [_plan(groups, naming, family.foreign) for naming in namings]
    plan = min(plans, key=lambda plan: (len(plan.kept), plan.joined + plan.split))
    naming, notes = plan.naming, list(plan.notes())
    if choice == "auto" and naming is not _TRANSFORMERS:
        # only what ComfyUI loads: no rewritten names, and its suffix for a DoRA
        style = "diffusers" if naming.style == "peft" else naming.style
        return Renamed(plan.adapters, style, tuple(notes))
    if choice in ("peft", "diffusers"):
        own = sum(not {"up", "down"} <= adapter.tensors().keys() for adapter in plan.adapters)
        if own:
            notes.append(f"{own} differences go by ComfyUI's keys, which {choice} does not read")
    if choice == "peft" and any(is_text_encoder(adapter.name) for adapter in plan.adapters):
        notes.append("PEFT loads one model from a file: its text encoder modules lie apart there")
    named = tuple(adapter.renamed(_rewrite(adapter.name, naming)) for adapter in plan.adapters)
    return Renamed(named, naming.style, tuple(notes))


@dataclass(frozen=True)
class _Plan:
    """The result of one naming for all adapters.

    Attributes:
        naming: the naming.
        adapters: the adapters, by names of the key map.
        kept: the names of the adapters that have none in the naming.
        joined, split: how many fused weights had their LoRAs joined or split.
    """

    naming: Naming
    adapters: tuple[Part, ...]
    kept: tuple[str, ...]
    joined: int
    split: int

    def notes(self) -> Iterator[str]:
        if self.joined:
            yield (
                f"{self.joined} weights have one name for the whole in this naming: the LoRAs of "
                "their parts were joined, and the ranks added up"
            )
        if self.split:
            yield (
                f"{self.split} weights have names for their parts in this naming: their LoRAs "
                "were split"
            )
        if self.kept:
            yield (
                f"{len(self.kept)} modules have no name in this naming and go by another (the "
                f"first: {self.kept[0]})"
            )


@dataclass(frozen=True)
class _Group:
    """All adapters of one weight.

    Attributes:
        parts: the adapters with their places; None for a name that is not in the key map.
        known: the key map's names for the weight and for its parts.
    """

    parts: list[tuple[Part, WeightRef | None]]
    known: Mapping[str, WeightRef]

    @property
    def is_distinct(self) -> bool:
        """Whether no two adapters change the same place in the same role."""
        changes = {(place, getattr(part, "role", "")) for part, place in self.parts}
        return len(changes) == len(self.parts)


def _by_weight(adapters: Collection[Part], names: Mapping[str, WeightRef]) -> list[_Group]:
    all_known = all(adapter.name in names for adapter in adapters)
    aliases = {} if all_known else by_canonical_name(names)
    known: dict[str, dict[str, WeightRef]] = defaultdict(dict)
    for name, place in names.items():
        known[place.key][name] = place
    groups: dict[str, list[tuple[Part, WeightRef | None]]] = defaultdict(list)
    for adapter in adapters:
        found = names.get(adapter.name) or aliases.get(canonical_name(adapter.name))
        groups[found.key if found else adapter.name].append((adapter, found))
    return [_Group(parts, known.get(key, {})) for key, parts in groups.items()]


def _plan(groups: Iterable[_Group], naming: Naming, foreign: str) -> _Plan:
    made: list[Part] = []
    kept: list[str] = []
    joined = split = 0
    for group in groups:
        wanted = _wanted(group.known, naming, foreign)
        if group.is_distinct and all(place in wanted for _, place in group.parts):
            made += [adapter.renamed(wanted[place]) for adapter, place in group.parts]
            continue
        pieces = _regrouped(group, wanted) if group.is_distinct else None
        if pieces is None:
            kept += [adapter.name for adapter, _ in group.parts]
            made += [a.renamed(_any_name(a.name, at, group.known)) for a, at in group.parts]
            continue
        made += [piece.adapter.renamed(wanted[piece.place]) for piece in pieces]
        joined += len(pieces) < len(group.parts)
        split += len(pieces) > len(group.parts)
    return _Plan(naming, tuple(made), tuple(kept), joined, split)


def _wanted(
    known: Mapping[str, WeightRef], naming: Naming, foreign: str
) -> dict[WeightRef | None, str]:
    """Place -> the naming's name, for a weight and its parts."""
    found: dict[WeightRef | None, tuple[int, int, str]] = {}
    for name, place in known.items():
        fits = [i for i, pattern in enumerate(naming.patterns) if re.match(pattern, name)]
        if not fits or re.match(foreign, name):
            continue
        bare = name.partition(".")[2]  # a name that is the weight's own key is preferred
        own = len(bare) if place.key.removesuffix(".weight").endswith(bare) else 0
        rating = (fits[0], -own, name)
        found[place] = min(found.get(place, rating), rating)
    return {place: name for place, (_, _, name) in found.items()}


def _regrouped(group: _Group, wanted: Mapping[WeightRef | None, str]) -> tuple[Piece, ...] | None:
    pieces = [
        Piece(part, place)
        for part, place in group.parts
        if isinstance(part, LoraAdapter) and not part.reshape and place is not None
    ]
    if len(pieces) < len(group.parts):
        return None  # only a LoRA can be joined or split
    slices = [place.part for place in group.known.values() if place.part is not None]
    ends = [part.start + part.length for part in slices]
    wholes = [piece.adapter.up.shape[0] for piece in pieces if piece.place.part is None]
    return regroup(pieces, [place for place in wanted if place], max((*ends, *wholes), default=0))


def _any_name(own: str, place: WeightRef | None, known: Mapping[str, WeightRef]) -> str:
    """The adapter's own name if the key map has it, else one of the key map's for the place."""
    if own in known or place is None:
        return own
    there = [name for name, other in known.items() if other == place]
    return min(there, key=lambda name: not name.startswith(("diffusion_model.", "lora_")))


def _rewrite(name: str, naming: Naming) -> str:
    for pattern, replacement in naming.rewrites:
        name = re.sub(pattern, replacement, name)
    return name
