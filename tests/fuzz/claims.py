"""Files that claim more than there is, or ask for more work than they are worth: by hand.

Kind of file (see targets.py) -> what is wrong with it -> its bytes.
"""

import json
import struct
from collections.abc import Mapping

import torch
from safetensors.torch import save

from .mutations import safetensors_of

MANY = 3_000
_HUGE = 2**60


def _header(found: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(found).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _lora(metadata: Mapping[str, str] | None = None, module: str = "transformer.mid") -> bytes:
    pair = {"up": torch.ones(24, 4), "down": torch.ones(4, 16)}
    tensors = {f"{module}.lora_{side}.weight": tensor for side, tensor in pair.items()}
    return save(tensors, dict(metadata) if metadata else None)


def _many(*ends: str) -> bytes:
    """So many modules, of a number each."""
    one = ("F16", [1, 1], b"\0\x3c")
    names = (f"lora_unet_blocks_{i}{end}" for i in range(MANY // len(ends)) for end in ends)
    return safetensors_of(dict.fromkeys(names, one), {})


def _tucker(role: str, rank: int, side: int) -> dict[str, torch.Tensor]:
    """A core whose kernel is as long as the layer is wide: the product has the square of both."""
    down, up = torch.ones(rank, side), torch.ones(rank, 8)
    core = torch.ones(rank, rank, side, 1)
    return {
        "lora": {"lora_down.weight": down, "lora_up.weight": up.T, "lora_mid.weight": core},
        "hada": {
            **{f"hada_w{i}_{n}": t for i in "12" for n, t in (("a", up), ("b", down))},
            **{"hada_t1": core, "hada_t2": core},
        },
        "lokr": {"lokr_w1": torch.ones(2, 2), "lokr_w2_a": up, "lokr_w2_b": down, "lokr_t2": core},
    }[role]


def _saved(tensors: Mapping[str, torch.Tensor]) -> bytes:
    return save({f"lora_unet_mid.{key}": t.clone().contiguous() for key, t in tensors.items()})


def _gguf(tensors: int = 0, pairs: int = 0, rest: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, pairs) + rest


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _pair(kind: int, value: bytes) -> bytes:
    return _text(b"x") + struct.pack("<I", kind) + value


def _peft(**fields: object) -> bytes:
    return json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **fields}).encode()


DEEP = b"[" * 100_000
_TEXTS = {"nested in lists": DEEP, "nested in objects": b'{"a":' * 100_000}

CLAIMS: dict[str, dict[str, bytes]] = {
    "safetensors": {
        "a header of terabytes": _header({}, length=2**42),
        "a header of all there can be": _header({}, length=2**64 - 1),
        "a tensor of terabytes": _header({"a": _tensor([2**40], [0, 2**42])}, b"\0" * 8),
        "a tensor of nothing and terabytes": _header({"a": _tensor([0, 2**62, 4], [0, 0])}),
        "more sides than there are": _header({"a": _tensor([1] * MANY, [0, 4])}, b"\0" * 4),
        "nested": struct.pack("<Q", len(DEEP)) + DEEP,
        "three thousand keys": _many(".a"),
    },
    "adapters": {
        "three thousand keys": _many(".lora_up.weight", ".lora_down.weight"),
        "three thousand unknown keys": _many(".lora_x.weight"),
        "three thousand halves": _many(".lora_up.weight"),
        "a name of a megabyte": _lora(module="a." * 500_000 + "mid"),
        "a name of underscores": _lora(module="_" * 1_000_000),
        "a header of a megabyte": _lora({"modelspec.title": "x " * 500_000}),
        "tags of a megabyte": _lora(
            {"ss_tag_frequency": json.dumps({"1": {str(i): 1 for i in range(MANY)}})}
        ),
        "a nested configuration": _lora({"lora_adapter_metadata": '{"a":' * MANY}),
        "a configuration of many parts": _lora(
            {"lora_adapter_metadata": json.dumps({f"{i}.r": 4 for i in range(MANY)})}
        ),
        "a pattern that takes for ever": _lora(
            {
                "lora_adapter_metadata": json.dumps(
                    {"r": 4, "lora_alpha": 8, "rank_pattern": {"(a+)+$": 4}}
                )
            },
            "a" * 60 + "!",
        ),
        **{
            f"a Tucker core of {role}": _saved(_tucker(role, 1, 50_000))
            for role in ("lora", "hada", "lokr")
        },
        "one large block of an OFT": _saved({"oft_R.weight": torch.ones(1, 1225 * 2)}),
    },
    "peft": {
        **_TEXTS,
        "a pattern that takes for ever": _peft(rank_pattern={"(.+)+$": 4, "(m|mi|mid)*!": 4}),
        "choices one after the other": _peft(alpha_pattern={"a?" * 40: 4}),
        "a pattern of brackets": _peft(rank_pattern={"(" * MANY: 4}),
        "a repetition beyond all bounds": _peft(rank_pattern={"m{99999999999}": 4}),
        "three thousand patterns": _peft(rank_pattern={f"{i}.*": 4 for i in range(MANY)}),
    },
    "gguf": {
        "tensors without end": _gguf(tensors=_HUGE),
        "values without end": _gguf(pairs=_HUGE, rest=_pair(4, b"\0" * 4)),
        "an array without end": _gguf(pairs=1, rest=_pair(9, struct.pack("<IQ", 0, _HUGE))),
        "a list of texts without end": _gguf(pairs=1, rest=_pair(9, struct.pack("<IQ", 8, _HUGE))),
        "arrays in arrays": _gguf(pairs=1, rest=_pair(9, struct.pack("<IQ", 9, 1) * MANY)),
        "a text without end": _gguf(pairs=1, rest=struct.pack("<Q", 2**63)),
        "a tensor of all sides": _gguf(1, rest=_text(b"x") + struct.pack("<I", 2**32 - 1)),
        "a tensor of terabytes": _gguf(
            1, rest=_text(b"x") + struct.pack("<IQQIQ", 2, 2**31, 2**31, 0, 0)
        ),
        "a tensor beyond 64 bits": _gguf(
            1, rest=_text(b"x") + struct.pack("<IQQIQ", 2, 2**63, 2**63, 0, 2**64 - 1)
        ),
        "three thousand values": _gguf(
            pairs=MANY,
            rest=b"".join(_text(b"%d" % i) + struct.pack("<IB", 0, 1) for i in range(MANY)),
        ),
    },
    "checkpoint": {
        "three thousand keys": _many(".weight"),
        "a name of a megabyte": _lora(module="model.diffusion_model." + "a." * 500_000),
        "a nested mark": _saved(
            {
                "weight": torch.ones(2, 2),
                "comfy_quant": torch.frombuffer(bytearray(DEEP), dtype=torch.uint8),
            }
        ),
    },
    "pairs": {
        **_TEXTS,
        "three thousand pairs": json.dumps({f"a.{i}": f"b.{i}" for i in range(MANY)}).encode(),
        "a name of a megabyte": json.dumps({"a." * 500_000: None}).encode(),
    },
    "index": {
        **_TEXTS,
        "three thousand files": json.dumps(
            {"weight_map": {str(i): f"{i}.safetensors" for i in range(MANY)}}
        ).encode(),
    },
    "transformers": _TEXTS,
    "recording": {"three thousand keys": _many(".a")},
    "manifest": {
        "nested": b'{"lora":' + DEEP,
        "three thousand rows": b"lora\n" + b"".join(b"%d\n" % i for i in range(MANY)),
        "a cell of a megabyte": b"lora\n" + b"x" * 1_000_000,
        "a quote left open": b'lora\n"' + b"x\n" * MANY,
    },
    "results": {"a cell of a megabyte": b"status\n" + b"x" * 1_000_000},
    "digests": _TEXTS,
    "header": _TEXTS,
    "list": {
        "a line of a megabyte": b"<lora:" * 150_000,
        "words without end": b"a " * 500_000,
        "ten thousand unknown": b"a b c\n" * 10_000,
    },
}
