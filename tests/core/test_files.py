"""Files that are damaged, are something else or cannot be written: said, never half done."""

import errno
import json
import os
import pickle
import stat
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from prolora.adapters import lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.errors import ProLoRAError
from prolora.files import safetensors as files
from prolora.files.safetensors import read_safetensors, write_safetensors
from prolora.models.key_map import load_checkpoint

from .small_models import random_lora

GOOD = save(lora_state_dict([random_lora("lora_unet_layer", (24, 16))]))
HEADER = 8 + struct.unpack("<Q", GOOD[:8])[0]


def with_header(header: object, data: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class Trap:
    """Unpickling it would create a file."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


def torch_file(folder: Path, zipped: bool) -> bytes:
    torch.save({"state_dict": Trap()}, folder / "t.pt", _use_new_zipfile_serialization=zipped)
    return (folder / "t.pt").read_bytes()


DAMAGED = {
    "empty": (b"", "is empty .* Download or copy it again"),
    "cut in the length": (GOOD[:5], "too short .* Download or convert"),
    "cut in the header": (GOOD[: HEADER // 2], "claims to be longer .* Download or convert"),
    "cut after the header": (GOOD[:HEADER], "ends early.* Download or convert"),
    "cut in the data": (GOOD[:-1], "ends early.* Download or convert"),
    "text": (b"<!DOCTYPE html><html>Log in to download this model</html>", "Download or convert"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "is a pickle .*Convert it to .safetensors"),
    "zeros": (b"\0" * 64, "is not a readable safetensors file.* Download or convert"),
    "header of a gigabyte": (struct.pack("<Q", 2**30) + GOOD[8:], "no safetensors file has"),
    "header of 2**60": (struct.pack("<Q", 2**60) + GOOD[8:], "no safetensors file has"),
    "no JSON": (with_header(b'{"a": nonsense}  '), "header is not that of a.* Download or convert"),
    "no text": (with_header(b"{\xff\xfe\xfd}"), "header is not that of a.* Download or convert"),
    "JSON of another kind": (with_header([1, 2]), "not a readable safetensors.* Download or"),
    "more than it holds": (
        with_header({"a": tensor(0, 4000, [1000])}),
        "ends early, or its header claims more.* Download or convert",
    ),
    "overlapping offsets": (
        with_header({"a": tensor(0, 64, [16]), "b": tensor(32, 64, [8])}),
        "contradicts itself.* Download or convert",
    ),
    "sizes that differ": (
        with_header({"a": tensor(0, 64, [17])}),
        "contradicts itself.* Download or convert",
    ),
    "unknown dtype": (
        with_header({"a": tensor(0, 64, [16], "F99")}),
        "not a readable safetensors.* Download or convert",
    ),
}


@pytest.mark.parametrize("read", [read_adapter_file, load_checkpoint])
@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(tmp_path, kind, read):
    content, words = DAMAGED[kind]
    path = tmp_path / "style.safetensors"
    path.write_bytes(content)
    with pytest.raises(ProLoRAError, match=rf"(?s)style\.safetensors .*{words}"):
        read(path)


@pytest.mark.parametrize("read", [read_adapter_file, load_checkpoint])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 0", "pickle 5"])
def test_a_pickle_is_never_unpickled(tmp_path, monkeypatch, kind, read):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "style.safetensors"
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(Trap(), protocol=int(kind[-1])))
    else:
        path.write_bytes(torch_file(tmp_path, zipped=kind == "zip"))
    with pytest.raises(ProLoRAError, match=r"style\.safetensors .*[Cc]onvert it"):
        read(path)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("read", [read_adapter_file, load_checkpoint])
def test_no_file_and_no_file_but_a_folder(tmp_path, read):
    with pytest.raises(ProLoRAError, match=r"absent\.safetensors does not exist. Is the name"):
        read(tmp_path / "absent.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ProLoRAError, match=r"folder\.safetensors is a folder. Choose a file"):
        read(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("magic", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path, magic):
    """The first bytes are the header's length: 1152 is what a pickle of protocol 4 begins with."""
    header = json.dumps({"emb": tensor(0, 64, [16])}).encode().ljust(magic)
    (tmp_path / "a.safetensors").write_bytes(with_header(header))
    assert read_safetensors(tmp_path / "a.safetensors")[0]["emb"].shape == (16,)


UP, DOWN = torch.ones(24, 4), torch.ones(4, 16)
BROKEN = {
    "no down": ({"lora_up.weight": UP}, "m has a LoRA up but no LoRA down. .* again"),
    "no up": ({"lora_down.weight": DOWN, "alpha": torch.tensor(4.0)}, "down but no LoRA up"),
    "ranks": (
        {"lora_up.weight": UP, "lora_down.weight": DOWN[:3]},
        r"\[24, 4\] .*\[3, 16\].*again",
    ),
    "rank 0": ({"lora_up.weight": UP[:, :0], "lora_down.weight": DOWN[:0]}, "an empty up"),
    "a single number": (
        {"lora_up.weight": torch.tensor(1.0), "lora_down.weight": DOWN},
        "has a single number as its up",
    ),
    "vectors": ({"lora_up.weight": UP[0], "lora_down.weight": DOWN}, "do not multiply"),
    "kernel in up": (
        {"lora_up.weight": torch.ones(24, 4, 3, 3), "lora_down.weight": DOWN},
        "do not multiply",
    ),
    "NaN": ({"lora_up.weight": UP * float("nan"), "lora_down.weight": DOWN}, "LoRA up .* m, .*NaN"),
    "infinity": ({"lora_up.weight": UP, "lora_down.weight": DOWN / 0}, "LoRA down .*earlier epoch"),
    "alpha NaN": (
        {"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.tensor(float("nan"))},
        "LoRA alpha .*NaN",
    ),
    "two alphas": (
        {"lora_up.weight": UP, "lora_down.weight": DOWN, "alpha": torch.ones(2)},
        r"module m has not one number but \[2\] as its alpha.* again",
    ),
    "numbers without end": (
        {
            **{"lora_up.weight": UP, "lora_down.weight": DOWN},
            "reshape_weight": torch.ones(1000),
        },
        "m has 1000 numbers as its reshape_weight",
    ),
    "a core as long as the layer is wide": (
        {
            **{"lora_up.weight": UP[:, :1], "lora_down.weight": torch.ones(1, 9000)},
            "lora_mid.weight": torch.ones(1, 1, 9000, 1),
        },
        r"mid \[1, 1, 9000, 1\] and down \[1, 9000\] that do not multiply",
    ),
    "quantised": (
        {"lora_up.weight": UP.to(torch.int8), "lora_down.weight": DOWN},
        "stored as torch.int8. Use an fp16",
    ),
}
if hasattr(torch, "float4_e2m1fn_x2"):  # torch 2.8 and later
    BROKEN["fp4"] = (
        {
            "lora_up.weight": UP.to(torch.uint8).view(torch.float4_e2m1fn_x2),
            "lora_down.weight": DOWN,
        },
        "up of the module m is stored as torch.float4",
    )


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_modules(kind):
    parts, words = BROKEN[kind]
    with pytest.raises(ProLoRAError, match=rf"^style\.safetensors: .*{words}"):
        parse_adapter_file({f"m.{k}": v for k, v in parts.items()}, "style.safetensors")


@pytest.mark.parametrize("key", ["first_stage_model.decoder.weight", "emb_params", "m.alpha"])
def test_a_file_of_something_else(tmp_path, key):
    path = tmp_path / "vae.safetensors"
    write_safetensors({key: torch.tensor(1.0)}, path, {"format": "pt"})
    with pytest.raises(ProLoRAError, match=r"vae\.safetensors is no LoRA: .* Choose a LoRA file"):
        read_adapter_file(path)


def test_a_file_of_nothing(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(with_header(b"{}", b""))
    with pytest.raises(ProLoRAError, match=r"a\.safetensors is no LoRA: .* Choose a LoRA file"):
        read_adapter_file(tmp_path / "a.safetensors")


def test_alpha_as_a_vector_of_one_and_as_a_whole_number():
    for alpha in (torch.tensor([3.0]), torch.tensor(3), torch.tensor(3.0, dtype=torch.bfloat16)):
        parts = {"m.lora_up.weight": UP, "m.lora_down.weight": DOWN, "m.alpha": alpha}
        assert parse_adapter_file(parts, "file").adapters[0].alpha == 3.0


TENSORS = {"a": torch.arange(6.0).reshape(2, 3)}


def test_write_and_read(tmp_path):
    path = tmp_path / "new" / "folder" / "a.safetensors"
    write_safetensors({"a": TENSORS["a"].T}, path, {"by": "us"})  # not contiguous
    tensors, metadata = read_safetensors(path)
    assert torch.equal(tensors["a"], TENSORS["a"].T)
    assert metadata == {"by": "us"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_safetensors(TENSORS, tmp_path / "a.safetensors", {})
    finally:
        assert os.umask(before) == mask
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~mask


def test_the_folder_is_a_file(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProLoRAError, match=r"a\.safetensors could not be saved .*Is there room"):
        write_safetensors(TENSORS, tmp_path / "file" / "a.safetensors", {})


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ProLoRAError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, error, raised):
    path = tmp_path / "a.safetensors"
    path.write_bytes(GOOD)

    def broken_off(tensor):  # when the header is written
        raise error

    monkeypatch.setattr(files, "as_bytes", broken_off)
    with pytest.raises(raised, match="Nothing was written" if raised is ProLoRAError else None):
        write_safetensors(TENSORS, path, {})
    assert path.read_bytes() == GOOD
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_what_was_there(tmp_path):
    (tmp_path / "a.safetensors").mkdir()  # a folder of that name cannot be replaced
    with pytest.raises(ProLoRAError, match="could not be saved"):
        write_safetensors(TENSORS, tmp_path / "a.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
