"""What strangers' files go through: each kind of file, some to begin with, and what reads it."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from prolora.adapters.file import AdapterFile, parse_adapter_file, read_adapter_file
from prolora.adapters.lora_list import parse_lora_list
from prolora.adapters.peft_config import CONFIG_NAME, WEIGHTS_NAME, read_peft_config
from prolora.adapters.suffixes import ROLES
from prolora.algebra.kept import BASES
from prolora.batch.manifest import Call, read_manifest
from prolora.batch.table import Table
from prolora.errors import ProLoRAError
from prolora.files.cache import FileCache
from prolora.files.digests import DigestMemory
from prolora.files.kept_on_disk import KeptOnDisk
from prolora.files.safetensors import read_safetensors
from prolora.inspection import describe_adapter
from prolora.models.key_map import load_checkpoint
from prolora.models.model import Model
from prolora.named_files import header, is_lora
from prolora.pairing.block_pairs import check_pairs, read_pairs, write_pairs
from prolora.pairing.module_tree import module_tree
from prolora.provenance.header import base_said, describe_header
from prolora.provenance.moved import Move, moved_header
from prolora.recording.file import read_recording
from prolora.recording.text import describe
from prolora.transfer.job import transfer_lora
from prolora.transfer.modes import MODES
from prolora.transfer.saving import FileForm, save_result
from prolora.transfer.settings import TransferSettings

from . import seeds
from .mutations import Mutate, of_gguf, of_json, of_safetensors, of_text

Read = Callable[[Path, bytes], object]
_numbers = count()


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        title: what it is, for the table.
        share: of a thousand cases.
        seeds: files to begin with; each is also read as it is.
        mutate: changes one.
        read: what the pack does with the bytes of one, in an empty folder.
    """

    title: str
    share: int
    seeds: Callable[[], Iterable[bytes]]
    mutate: Mutate
    read: Read


def _named(folder: Path, data: bytes, name: str) -> Path:
    """A file of these bytes, whose name nothing remembers: two may be of one size and moment."""
    path = folder / str(next(_numbers) % 64) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def _read_safetensors(folder: Path, data: bytes) -> None:
    read_safetensors(_named(folder, data, "x.safetensors"))


def _adapter(folder: Path, data: bytes) -> AdapterFile:
    file = read_adapter_file(_named(folder, data, "x.safetensors"))
    describe_adapter(file)
    assert file.digest and file.families is not None
    return file


def _moved(folder: Path, data: bytes) -> None:
    """Between the models that have its modules, in some mode, then written and read again."""
    file, modes = (
        _adapter(folder, data),
        [mode for mode in MODES if not MODES[mode].needs_recording],
    )
    settings = TransferSettings(threshold=0.1, mode=modes[sum(data[-9:]) % len(modes)], workers=1)
    refused = None
    for source, target in seeds.pairs_of_models():
        try:
            result = transfer_lora(file, source, target, settings)
        except ProLoRAError as error:
            refused = error
            continue
        path = folder / "moved.safetensors"
        save_result(result, target, path, FileForm("fp32"))
        read_adapter_file(path)
        return
    raise refused or AssertionError("there are no models")


def _peft_config(folder: Path, data: bytes) -> None:
    path = _named(folder, data, CONFIG_NAME).with_name(WEIGHTS_NAME)
    config = read_peft_config(path)
    for tensors in seeds.peft_weights():
        parse_adapter_file(tensors, "x", {}, config)


def _checkpoint(folder: Path, data: bytes, name: str = "x.safetensors") -> None:
    path = _named(folder, data, name)
    is_lora(header(path)[0])
    _look_at(load_checkpoint(path))


def _look_at(model: Model) -> None:
    """Every shape, and the values of a few weights."""
    for key in model.weights:
        model.weights.shape(key)
    module_tree(model)
    for key in list(model.weights)[:4]:
        model.weights.read(key)


def _gguf(folder: Path, data: bytes) -> None:
    _checkpoint(folder, data, "x.gguf")


def _index(folder: Path, data: bytes) -> None:
    path = _named(folder, data, "model.safetensors.index.json")
    for name in ("a", "b"):
        (path.parent / f"{name}.safetensors").write_bytes(seeds.one_shard())
    load_checkpoint(path.parent)


def _transformers(folder: Path, data: bytes) -> None:
    path = _named(folder, data, "config.json")
    (path.parent / "model.safetensors").write_bytes(seeds.one_shard())
    load_checkpoint(path.parent)


def _pairs(folder: Path, data: bytes) -> None:
    pairs = read_pairs(_named(folder, data, "pairs.json"))
    write_pairs(pairs)
    source, target = seeds.pairs_of_models()[0]
    check_pairs(pairs, module_tree(source), module_tree(target))


def _recording(folder: Path, data: bytes) -> None:
    describe(read_recording(_named(folder, data, "x.recording.safetensors")))


def _manifest(folder: Path, data: bytes) -> None:
    path = _named(folder, data, "x.csv")
    read_manifest(path, Call(path.with_name("a.safetensors"), path.with_name("b.safetensors")))


def _results(folder: Path, data: bytes) -> None:
    assert Table(_named(folder, data, "x.csv"), []).outcomes == []


def _bases(folder: Path, data: bytes) -> None:
    """In the place of an entry: what is found is what was computed, or it is computed again."""
    for old in folder.glob("*.bases.safetensors"):
        old.unlink()
    kept, key, device = KeptOnDisk(folder, 10**9), ("a", 0.5, BASES), seeds.CPU
    kept.tensors(key, seeds.bases, device)
    (path,) = folder.glob("*.bases.safetensors")
    path.unlink()
    path.write_bytes(data)
    found = kept.tensors(key, seeds.bases, device)
    assert [t.shape for t in found] == [t.shape for t in seeds.bases()]


def _kept(folder: Path, data: bytes) -> None:
    path = _named(folder, data, f"x {seeds.KEY[:8]}.safetensors")
    FileCache(path.parent, 10**9).find(seeds.KEY)


def _digests(folder: Path, data: bytes) -> None:
    path = _named(folder, data, "digests.json")
    with DigestMemory(path).together():
        DigestMemory(path).of(path)


def _lora_list(folder: Path, data: bytes) -> None:
    parse_lora_list(data.decode(errors="surrogateescape"), seeds.NAMES)


def _header(folder: Path, data: bytes) -> None:
    """The metadata of a LoRA, of whatever texts JSON can hold."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    said = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()
    }
    list(describe_header(said, found))
    str(base_said(said, found))
    source, target = seeds.pairs_of_models()[0]
    moved_header(said, Move(source, target, ["LoRA"], ["LoRA"]), {})


_SUFFIXES = tuple(sorted(ROLES, key=len, reverse=True))
_lora = of_safetensors(_SUFFIXES, seeds.METADATA_WORDS)
TARGETS = {
    "safetensors": Target(
        "safetensors files", 180, seeds.adapters, of_safetensors(), _read_safetensors
    ),
    "adapters": Target(
        "key sets of LoRAs, read and described", 150, seeds.adapters, _lora, _adapter
    ),
    "moved": Target("LoRAs moved and saved", 10, seeds.adapters, _lora, _moved),
    "header": Target(
        "headers of LoRAs", 70, seeds.headers, of_json(*seeds.METADATA_WORDS), _header
    ),
    "peft": Target(
        "adapter_config.json", 100, seeds.peft_configs, of_json(*seeds.PEFT_WORDS), _peft_config
    ),
    "checkpoint": Target(
        "checkpoints",
        50,
        seeds.checkpoints,
        of_safetensors(seeds.MODEL_SUFFIXES, seeds.QUANTISED_WORDS),
        _checkpoint,
    ),
    "gguf": Target("GGUF headers", 100, seeds.ggufs, of_gguf, _gguf),
    "index": Target("indices of shards", 40, seeds.indices, of_json("weight_map"), _index),
    "transformers": Target(
        "config.json of a model",
        30,
        seeds.configs,
        of_json("architectures", "vocab_size"),
        _transformers,
    ),
    "pairs": Target("pairs", 80, seeds.pairs, of_json(*seeds.PAIR_WORDS), _pairs),
    "recording": Target(
        "recordings",
        50,
        seeds.recordings,
        of_safetensors(seeds.RECORDING_SUFFIXES, seeds.RECORDING_WORDS),
        _recording,
    ),
    "manifest": Target("manifests", 70, seeds.manifests, of_text(*seeds.COLUMNS), _manifest),
    "results": Target("tables of results", 20, seeds.results, of_text(*seeds.COLUMNS), _results),
    "bases": Target("cached bases", 20, seeds.kept_bases, of_safetensors(), _bases),
    "kept": Target("cached results", 10, seeds.kept_results, of_safetensors(), _kept),
    "digests": Target("remembered digests", 10, seeds.memories, of_json(), _digests),
    "list": Target("lists of LoRAs", 10, seeds.lists, of_text("<lora:a:1>", "sub/a"), _lora_list),
}
assert sum(target.share for target in TARGETS.values()) == 1000


@cache
def seeds_of(name: str) -> tuple[bytes, ...]:
    return tuple(TARGETS[name].seeds())
