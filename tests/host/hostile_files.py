"""What strangers put into files and folders: texts that steer, and entries that are no files."""

import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

LONG = 1_000_000  # letters
MARKUP = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
TEXTS = {
    "markup": MARKUP,
    "colours": "\x1b[31mred\x1b[2J\x1b]0;title\x07\x9b31m",
    "control": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    "right_to_left": "\u202egpj.\u2066x\u2069\u200f",
    "lines": "one\ntwo\r\nERROR: three\u2028four",
    "markdown": "[x](http://127.0.0.1:9/x) ![y](http://127.0.0.1:9/y.png) `z` **b**",
    "template": "%s %d {0} {self} ${HOME} $(id) `id`",
    "megabytes": "w" * LONG,
}
# Every key that the pack reads or shows.
KEYS = (
    *("modelspec.title", "modelspec.author", "modelspec.license", "modelspec.trigger_phrase"),
    *("modelspec.usage_hint", "modelspec.tags", "modelspec.merged_from", "modelspec.thumbnail"),
    *("modelspec.architecture", "ss_output_name", "ss_base_model_version", "ss_sd_model_name"),
    *("ss_network_module", "ss_network_args", "ss_network_dim", "ss_network_alpha", "name"),
    *("trained_words", "software", "prolora_target", "prolora_source", "prolora_move_1_source"),
    *("sshs_model_hash", "sshs_legacy_hash", "format"),
)


def with_metadata(lora: Path, text: str, path: Path) -> None:
    """A LoRA whose header says a text wherever the pack looks for one."""
    tags = json.dumps({text: {text: 7, "\ud800": 3}})
    config = json.dumps({"ot": text, "base_model_name": text})
    metadata = dict.fromkeys(KEYS, text) | {"ss_tag_frequency": tags, "ot_config": config}
    save_file(load_file(lora), path, {**metadata, text[:200]: text})


def with_keys(lora: Path, text: str, path: Path) -> None:
    """A LoRA with modules of such names beside its own, and with a key that is of no kind."""
    tensors = load_file(lora)
    up = next(key for key in tensors if key.endswith("lora_up.weight"))
    down = up.replace("lora_up", "lora_down")
    names = {f"{text}.lora_up.weight": up, f"{text}.lora_down.weight": down, f"{text}.x": up}
    save_file(tensors | {name: tensors[key].clone() for name, key in names.items()}, path)


def with_a_type(text: str, path: Path) -> None:
    """A header whose types are a text, which the library that reads it says again."""
    header = json.dumps({text[:100]: {"dtype": text, "shape": [1], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4)


def put_no_files(folder: Path, good: Path, outside: Path) -> Mapping[str, bool]:
    """Entries of a folder of models that are no files, or have names that steer.

    Args:
        good: a file that can be read.
        outside: a folder elsewhere, for what links lead to.

    Returns:
        The names, and whether ComfyUI's own loader would read the file.
    """
    outside.mkdir(exist_ok=True)
    (outside / "linked.safetensors").write_bytes(good.read_bytes())
    os.mkfifo(folder / "pipe.safetensors")
    os.mkfifo(outside / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket is short
        end.bind("socket.safetensors")
        os.chdir(here)
    (folder / "folder.safetensors").mkdir()
    links = {
        "to_a_pipe": outside / "pipe",
        "to_zeros": Path("/dev/zero"),
        "to_a_terminal": Path("/dev/tty"),
        "to_random": Path("/dev/random"),
        "to_nothing": outside / "nothing",
        "to_itself": folder / "to_itself.safetensors",
        "to_a_folder": outside,
        "to_passwords": Path("/etc/passwd"),
        "to_memory": Path("/proc/self/mem"),
        "to_a_file": outside / "linked.safetensors",
    }
    for name, target in links.items():
        (folder / f"{name}.safetensors").symlink_to(target)
    found = {path.name: False for path in folder.glob("*.safetensors") if path != good}
    found["to_a_file.safetensors"] = True
    for label, text in TEXTS.items():
        name = f"{text.replace('/', '|')[:60]}{label}.safetensors"
        (folder / name).hardlink_to(good)
        found[name] = True
    (folder / os.fsdecode(b"no\xffutf8.safetensors")).hardlink_to(good)
    (folder / f"{'l' * 240}.safetensors").hardlink_to(good)
    return found | {os.fsdecode(b"no\xffutf8.safetensors"): True, f"{'l' * 240}.safetensors": True}
