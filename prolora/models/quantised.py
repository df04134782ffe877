"""Quantised weights, and the values that they stand for.

The forms are ComfyUI's. Beside a quantised `layer.weight` a file has its scales and
`layer.comfy_quant`, bytes of JSON that name the form; `_quantization_metadata` in the header may
name it instead, for all layers. An older form has only `layer.scale_weight`. A form that is not
exactly known is refused by name, because wrong values would be far worse.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import ProLoRAError
from ..files.json_text import parse_json

QUANT_MARK = "comfy_quant"
_HEADER = "_quantization_metadata"

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_FLOAT = (torch.float32, torch.float16, torch.bfloat16, *_FP8)
# fp4 (E2M1): a sign bit and the eight magnitudes of two exponent bits and one of mantissa.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_E2M1_VALUES = torch.tensor([sign * value for sign in (1, -1) for value in _E2M1])
# ConvRot (arXiv 2512.03673): W is stored times this matrix's Kronecker powers, halved.
_HADAMARD = 0.5 * torch.tensor(
    [[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]
)  # fmt: skip
_LONGEST_MARK = 1 << 16  # bytes of JSON; those that are written have about a hundred
_GROUPS = tuple(4**power for power in range(1, 9))

Options = Mapping[str, Any]
Parts = Mapping[str, torch.Tensor]


class Stored(Protocol):
    """The tensors of a file as they are stored, by key."""

    def __contains__(self, key: object) -> bool: ...

    def stored_shape(self, key: str) -> tuple[int, ...]: ...

    def stored(self, key: str) -> torch.Tensor: ...

    def place(self, key: str) -> str: ...


@dataclass(frozen=True)
class Form:
    """How a weight is stored.

    Attributes:
        name: what messages call it.
        parts: the names of the tensors that must lie beside the weight.
        dtypes: the dtypes that the stored weight may have.
        values: (weight, parts, options) -> the float32 values; None for a form that is known by
            name only.
        packed: how many values one stored element holds; 0 where this is not known.
    """

    name: str
    parts: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    values: Callable[[torch.Tensor, Parts, Options], torch.Tensor] | None = None
    packed: int = 1


class _Mismatch(Exception):
    """A weight and the tensors beside it do not fit together; the text says how."""


def _scaled(weight: torch.Tensor, parts: Parts, options: Options) -> torch.Tensor:
    """Values times one scale, or one scale for each row (m x 1)."""
    (scale,) = parts.values()
    per_row = (*weight.shape[:1], *(1,) * (weight.ndim - 1))
    if scale.numel() != 1 and tuple(scale.shape) != per_row:
        raise _Mismatch(f"its scales have the shape {list(scale.shape)}")
    if not scale.is_floating_point():
        raise _Mismatch(f"its scales are {scale.dtype}")
    return weight.float() * (scale.float().reshape(()) if scale.numel() == 1 else scale.float())


def _int8(weight: torch.Tensor, parts: Parts, options: Options) -> torch.Tensor:
    values = _scaled(weight, parts, options)
    more = options.get("params")
    options = {**(more if isinstance(more, dict) else {}), **options}
    return _unrotate(values, options) if options.get("convrot") else values


def _unrotate(weight: torch.Tensor, options: Options) -> torch.Tensor:
    """Rotates once more: the rotation is symmetric and orthogonal, so that undoes it."""
    size = options.get("convrot_groupsize", 256)
    if weight.ndim != 2 or size not in _GROUPS or weight.shape[1] % size:
        raise _Mismatch(f"it is rotated in groups of {size}")
    rotation = torch.ones(1, 1)
    while len(rotation) < size:
        rotation = torch.kron(rotation, _HADAMARD)
    return (weight.reshape(-1, size) @ rotation.to(weight.device)).reshape(weight.shape)


def _mxfp8(weight: torch.Tensor, parts: Parts, options: Options) -> torch.Tensor:
    """Each block of 32 in a row shares a power of two (OCP Microscaling Formats 1.0)."""
    exponents = _tiled(weight, parts["weight_scale"], torch.uint8, block=32)
    return _blockwise(weight.float(), torch.exp2(exponents.double() - 127).float())


def _nvfp4(weight: torch.Tensor, parts: Parts, options: Options) -> torch.Tensor:
    """Two fp4 in a byte, the first in its high half; each block of 16 shares an fp8 scale."""
    if weight.ndim != 2:
        raise _Mismatch(f"it has {weight.ndim} dimensions")
    codes = torch.stack((weight >> 4, weight & 15), dim=-1).flatten(start_dim=1)
    values = _E2M1_VALUES.to(weight.device)[codes.long()]
    scales = _tiled(values, parts["weight_scale"], torch.float8_e4m3fn, block=16)
    whole = parts["weight_scale_2"]
    if whole.numel() != 1 or not whole.is_floating_point():
        raise _Mismatch(f"its weight_scale_2 has the shape {list(whole.shape)} of {whole.dtype}")
    return _blockwise(values, whole.float().reshape(()) * scales.float())


def _tiled(
    weight: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype, block: int
) -> torch.Tensor:
    """The block scales (rows x blocks), out of the tiles of 128 x 4 that cuBLAS needs.

    A tile has row 32 q + i, column c at its place (i, q, c). Tiles at the edges are padded.
    """
    if weight.ndim != 2 or weight.shape[1] % block:
        raise _Mismatch(f"its shape {list(weight.shape)} has no whole blocks of {block}")
    rows, blocks = weight.shape[0], weight.shape[1] // block
    across, along = -(-rows // 128), -(-blocks // 4)
    if scales.element_size() != 1 or scales.numel() != across * along * 512:
        raise _Mismatch(f"its scales are {scales.dtype} of the shape {list(scales.shape)}")
    tiles = scales.view(dtype).reshape(across, along, 32, 4, 4)
    untiled = tiles.permute(0, 3, 2, 1, 4).reshape(across * 128, along * 4)
    return untiled[:rows, :blocks]


def _blockwise(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    blocks = weight.reshape(*scales.shape, -1)
    return (blocks * scales.unsqueeze(-1)).reshape(weight.shape)


# The forms by the name that comfy_quant gives.
FORMS = {
    "float8_e4m3fn": Form("scaled fp8", ("weight_scale",), _FLOAT, _scaled),
    "float8_e5m2": Form("scaled fp8", ("weight_scale",), _FLOAT, _scaled),
    "int8_tensorwise": Form("int8", ("weight_scale",), (torch.int8,), _int8),
    "mxfp8": Form("mxfp8", ("weight_scale",), (torch.float8_e4m3fn,), _mxfp8),
    "nvfp4": Form(
        "nvfp4", ("weight_scale", "weight_scale_2"), (torch.uint8,), _nvfp4, packed=2
    ),
    "convrot_w4a4": Form("int4 (ConvRot W4A4)", packed=2),
    "asym_w4a8_int8": Form("int4 (W4A8)", packed=2),
}  # fmt: skip
# The forms without comfy_quant, by a tensor beside the weight; the first that is there decides.
UNMARKED = {
    "weight.absmax": Form("bitsandbytes 4-bit", packed=0),
    "weight.SCB": Form("bitsandbytes int8"),
    "SCB": Form("bitsandbytes int8"),
    "weight_scale_2": Form("nvfp4 without ComfyUI's comfy_quant", packed=0),
    "weight_scale_inv": Form("fp8 in blocks (weight_scale_inv)"),
    "scale_weight": Form("scaled fp8", ("scale_weight",), _FLOAT, _scaled),
    "weight_scale": Form("scaled fp8", ("weight_scale",), _FLOAT, _scaled),
}
# Forms whose layers have no `weight`, by the end of a key.
WITHOUT_WEIGHTS = {
    ".qweight": "int4 (Nunchaku's SVDQuant, AWQ or GPTQ)",
    ".weight._data": "quanto's int8 or int4",
    ".weight_packed": "packed int4 (compressed-tensors)",
}
# ComfyUI multiplies the layer's input by this, so the weight alone does not tell what it does.
_SMOOTHED = "pre_quant_scale"
# What lies beside a quantised weight, and is none itself: the end of a key.
_BESIDE = (
    *(QUANT_MARK, _SMOOTHED, "input_scale", "scale_input", "scaled_fp8", *UNMARKED),
    *(part for form in FORMS.values() for part in form.parts),
)


def shape_of(tensors: Stored, key: str) -> tuple[int, ...]:
    """The shape of a weight's values, without reading it.

    Raises:
        ProLoRAError: the form does not tell the shape of the values.
    """
    shape = tensors.stored_shape(key)
    form, _ = _form(tensors, key)
    if form is None or not shape:
        return shape
    if form.packed == 0:
        raise _refusal(tensors, key, form.name)
    return (*shape[:-1], shape[-1] * form.packed)


def values_of(tensors: Stored, key: str) -> torch.Tensor:
    """A weight's values: dequantised to float32, or as they are stored.

    Raises:
        ProLoRAError: the form is unknown or known by name only, or the tensors beside the weight
            do not fit it.
    """
    form, options = _form(tensors, key)
    if form is None:
        return tensors.stored(key)
    if form.values is None:
        raise _refusal(tensors, key, form.name)
    layer = key.removesuffix("weight")
    missing = [part for part in form.parts if layer + part not in tensors]
    if missing:
        raise _refusal(tensors, key, form.name, f"{layer}{missing[0]} is missing")
    if layer + _SMOOTHED in tensors:
        raise _refusal(tensors, key, form.name, f"it goes with {layer}{_SMOOTHED}")
    weight = tensors.stored(key)
    if weight.dtype not in form.dtypes:
        raise _refusal(tensors, key, form.name, f"but holds {weight.dtype}")
    try:
        return form.values(
            weight, {part: tensors.stored(layer + part) for part in form.parts}, options
        )
    except _Mismatch as mismatch:
        raise _refusal(tensors, key, form.name, str(mismatch)) from None


def marks_in(metadata: Mapping[str, str], name: str) -> dict[str, torch.Tensor]:
    """The forms that a file's header names, as comfy_quant tensors by key.

    Args:
        name: the file's name, for the message.

    Raises:
        ProLoRAError: the header's entry cannot be read.
    """
    if _HEADER not in metadata:
        return {}
    try:
        layers = parse_json(metadata[_HEADER])["layers"]
        return {f"{layer}.{QUANT_MARK}": _bytes(json.dumps(layers[layer])) for layer in layers}
    except (ValueError, KeyError, TypeError):
        raise ProLoRAError(
            f"What the header of {name} says of its quantisation ({_HEADER}) cannot be read. "
            + _WHAT_TO_DO
        ) from None


def refuse_files_without_weights(name: str, keys: Iterable[str]) -> None:
    """Refuses a file that is quantised in a form without a `weight` in each layer.

    Args:
        name: the file's name, for the message.
        keys: all of its keys.

    Raises:
        ProLoRAError: a key is of such a form.
    """
    for key in keys:
        for end, form in WITHOUT_WEIGHTS.items():
            if key.endswith(end):
                raise ProLoRAError(
                    f"{name} is quantised as {form}: it has {key} where a weight would be. "
                    + _WHAT_TO_DO
                )


def is_beside_a_weight(key: str) -> bool:
    """Whether a key is that of a scale, a mark or a table of a quantised weight."""
    return ".weight." in key or key.endswith(tuple(f".{part}" for part in _BESIDE))


_WHAT_TO_DO = (
    "Use an fp16, bf16 or fp32 version of this model, or load it in the graph and connect its "
    "MODEL."
)


def _form(tensors: Stored, key: str) -> tuple[Form | None, Options]:
    """The form of a weight (None for a weight that is not quantised) and the layer's options."""
    layer = key.removesuffix("weight")
    if layer == key:
        return None, {}
    if layer + QUANT_MARK in tensors:
        options = _read_mark(tensors, layer + QUANT_MARK, key)
        name = str(options.get("format"))
        return FORMS.get(name, Form(f"{name!r}, a form unknown here", packed=0)), options
    for part, form in UNMARKED.items():
        if layer + part in tensors:
            return form, {}
    return None, {}


def _read_mark(tensors: Stored, mark: str, key: str) -> Options:
    try:
        options = parse_json(bytes(tensors.stored(mark).flatten()[:_LONGEST_MARK].tolist()))
    except (ValueError, TypeError):
        options = None
    if not isinstance(options, dict):
        raise _refusal(tensors, key, "a form that its comfy_quant does not say")
    return options


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _refusal(tensors: Stored, key: str, form: str, why: str = "") -> ProLoRAError:
    form = f"{form} ({why})" if why else form
    return ProLoRAError(
        f"The weight {key}{tensors.place(key)} is quantised as {form}, which ProLoRA cannot read "
        f"from a file. {_WHAT_TO_DO}"
    )
