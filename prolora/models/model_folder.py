"""A folder of weights: a pipeline of diffusers, one of its models, or a model of transformers.

A pipeline has `unet` or `transformer`, `text_encoder`, `text_encoder_2` and `_3`; their weights get
the folder's name in front: `unet/conv_in.weight`. A model is one file, or shards and an index that
says which shard has which weight. Another file of the kind `.fp16.` is a variant.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import ProLoRAError, truncated_list
from ..files.json_text import parse_json
from ..files.names import check_name
from .weights import SafetensorsWeights

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_SECOND = "transformer_2"  # Wan 2.2 has a model for much noise and one for little

_WHOLE = re.compile(r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?\.safetensors")
_INDEX = re.compile(
    r"(diffusion_pytorch_model|model)(\.(?P<old>\w+))?\.safetensors\.index(\.(?P<variant>\w+))?\.json"
)
_SHARD = re.compile(r".+-\d+-of-\d+.*\.safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def open_folder(folder: Path) -> SafetensorsWeights:
    """The weights of a pipeline of diffusers, or of one model.

    Raises:
        ProLoRAError: it is no such folder, or has two diffusion models; a file of it is missing,
            damaged or a pickle, or its index names a file elsewhere.
    """
    if (folder / "transformer").is_dir() and (folder / _SECOND).is_dir():
        raise ProLoRAError(
            f"{folder} has two diffusion models, transformer and {_SECOND}. Choose the folder of "
            "one of them: the LoRA was trained on one."
        )
    parts = [folder / name for name in COMPONENTS if (folder / name).is_dir()] or [folder]
    found = {part: _files(part) for part in parts}
    if not any(found.values()):
        raise ProLoRAError(
            f"{folder} is a folder. Choose a file in it, or a folder of diffusers or transformers: "
            f"one that has weights in {', '.join(COMPONENTS)} or in itself, as "
            "diffusion_pytorch_model.safetensors or model.safetensors."
        )
    return SafetensorsWeights({file: _prefix(part) for part in parts for file in found[part]})


def _prefix(part: Path) -> str:
    name = part.absolute().name
    return f"{name}/" if name in COMPONENTS else ""


def _files(folder: Path) -> list[Path]:
    """The files of one model; none where the folder has no weights at all."""
    names = sorted(path.name for path in folder.iterdir())
    variants: dict[str, str] = {}
    for pattern in (_INDEX, _WHOLE):  # a whole file counts more than shards
        for name in names:
            match = pattern.fullmatch(name)
            if match is not None:
                found = match.groupdict()
                variants[found["variant"] or found.get("old") or ""] = name
    if variants:
        chosen = folder / _choose(folder, variants)
        return list(_shards(chosen)) if chosen.suffix == ".json" else [chosen]
    if any(_SHARD.fullmatch(name) for name in names):
        raise ProLoRAError(
            f"{folder} has shards of a model but no index of them (*.safetensors.index.json). "
            "Download it too."
        )
    for name in names:
        if name.endswith(_PICKLES):
            raise ProLoRAError(f"{folder} has its weights in {name}: {_PICKLE}")
    return []


def _choose(folder: Path, variants: dict[str, str]) -> str:
    """The full weights; else the one variant that is there."""
    if "" in variants:
        return variants[""]
    if len(variants) > 1:
        raise ProLoRAError(
            f"{folder} has more than one variant of its weights: {', '.join(variants.values())}. "
            "Leave one of them there, or choose a file."
        )
    return next(iter(variants.values()))


_PICKLE = (
    "a pickle, which can run code when it is opened, so ProLoRA does not open it. Download or "
    "convert it to .safetensors."
)


def _shards(index: Path) -> Iterator[Path]:
    try:
        places = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
        named = all(isinstance(name, str) for name in names)
    except OSError as error:
        raise ProLoRAError(f"{index} cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        named = False
    if not named or not names:
        raise ProLoRAError(
            f"{index} is no index of shards: it has no weight_map that says which file has which "
            "weight. Download it again."
        )
    for name in names:
        if name.endswith(_PICKLES):
            raise ProLoRAError(f"{index} names {name}: {_PICKLE}")
        if re.fullmatch(r"[^/\\:]+\.safetensors", name) is None:
            raise ProLoRAError(
                f"{index} names {name!r}, which is no .safetensors file beside it. ProLoRA opens "
                "no other. Download the model again."
            )
    missing = [name for name in names if not check_name(index.parent / name).exists()]
    if missing:
        raise ProLoRAError(
            f"{index} names {len(missing)} files that are not there: "
            f"{', '.join(truncated_list(missing, 3))}. Download them too."
        )
    yield from (index.parent / name for name in names)
