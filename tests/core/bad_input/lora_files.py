"""Files that are chosen as a LoRA and are none, or are damaged."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from prolora.adapters import read_adapter_file

from .case import Case, Table, ones, written

NAME = "style.safetensors"
PAIR = {"linear.lora_A.weight": ones(4, 16), "linear.lora_B.weight": ones(24, 4)}
CONFIGURED = {f"base_model.model.{key}": tensor for key, tensor in PAIR.items()}
GOOD = {"peft_type": "LORA", "r": 4, "lora_alpha": 6}


def read(content: bytes | str) -> Callable[[], object]:
    return lambda: read_adapter_file(written(NAME, content))


def holding(tensors: dict[str, torch.Tensor], **metadata: str) -> Callable[[], object]:
    def call() -> object:
        save_file(tensors, NAME, metadata)
        return read_adapter_file(Path(NAME))

    return call


def with_header(header: object, data: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def claiming(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def whole() -> bytes:
    save_file(PAIR, NAME)
    return Path(NAME).read_bytes()


def a_zip_of_torch() -> object:
    torch.save(PAIR, NAME)
    return read_adapter_file(Path(NAME))


def a_folder() -> object:
    Path(NAME).mkdir()
    return read_adapter_file(Path(NAME))


def configured(config: object) -> Callable[[], object]:
    """An adapter of PEFT beside its configuration."""

    def call() -> object:
        text = config if isinstance(config, str) else json.dumps(config)
        written("style/adapter_config.json", text)
        save_file(CONFIGURED, "style/adapter_model.safetensors")
        return read_adapter_file(Path("style/adapter_model.safetensors"))

    return call


def a_folder_with_a_pickle() -> object:
    written("adapter/adapter_config.json", json.dumps(GOOD))
    written("adapter/adapter_model.bin", b"PK\x03\x04")
    return read_adapter_file(Path("adapter"))


def a_folder_of_adapters() -> object:
    for name in ("one", "two"):
        written(f"adapters/{name}/adapter_config.json", json.dumps(GOOD))
        save_file(CONFIGURED, f"adapters/{name}/adapter_model.safetensors")
    return read_adapter_file(Path("adapters"))


DAMAGED = Table(
    "Files that are damaged",
    "every node and command that reads a .safetensors file",
    (
        Case("a file that does not exist", lambda: read_adapter_file(Path(NAME)), "does not exist"),
        Case("a folder in the place of a file", a_folder, "is a folder"),
        Case("an empty file, as a download leaves it that did not begin", read(b""), "is empty"),
        Case("the first bytes of a file", lambda: read(whole()[:5])(), "too short"),
        Case("a file that ends in its header", lambda: read(whole()[:40])(), "claims to be longer"),
        Case("a download that broke off", lambda: read(whole()[:-1])(), "ends early"),
        Case(
            "the page of a log-in, saved as a model",
            read("<!DOCTYPE html><html>Log in to download this model</html>"),
            "Download or convert",
        ),
        Case("a file of zeros", read(b"\0" * 64), "is not a readable safetensors file"),
        Case(
            "a header that claims to be a gigabyte long",
            read(struct.pack("<Q", 2**30) + b"{" + b" " * 100),
            "no safetensors file has",
        ),
        Case(
            "a header that claims to be longer than any disk",
            read(struct.pack("<Q", 2**60) + b"{" + b" " * 100),
            "no safetensors file has",
        ),
        Case("a header that is no JSON", read(with_header(b'{"a": nonsense}  ')), "header is not"),
        Case("a header that is no text", read(with_header(b"{\xff\xfe\xfd}")), "header is not"),
        Case("a header that is a list", read(with_header([1, 2])), "not a readable"),
        Case(
            "a tensor that is larger than the file",
            read(with_header({"a": claiming(0, 4000, [1000])})),
            "claims more than it holds",
        ),
        Case(
            "two tensors that overlap",
            read(with_header({"a": claiming(0, 64, [16]), "b": claiming(32, 64, [8])})),
            "contradicts itself",
        ),
        Case(
            "a tensor whose shape needs more than its bytes",
            read(with_header({"a": claiming(0, 64, [17])})),
            "contradicts itself",
        ),
        Case(
            "a tensor of a type that there is not",
            read(with_header({"a": claiming(0, 64, [16], "F99")})),
            "not a readable",
        ),
        Case("a pickle of torch (.ckpt, .pt) with another name", a_zip_of_torch, "is a pickle"),
        Case(
            "a bare pickle with another name",
            lambda: read(pickle.dumps({"a": 1}, protocol=4))(),
            "is a pickle",
        ),
    ),
)

NO_LORA = Table(
    "Files that are no LoRA",
    "Load Source LoRA, Load LoRA for Model, Load LoRA Stack for Model, `prolora transfer`, "
    "`prolora batch`, `prolora inspect`",
    (
        Case("a file without a tensor", read(with_header(b"{}", b"")), "is no LoRA"),
        Case(
            "a checkpoint",
            holding({f"model.diffusion_model.{i}.weight": ones(2, 2) for i in range(9)}),
            "seems to be a checkpoint",
        ),
        Case("a VAE", holding({"first_stage_model.decoder.weight": ones(2)}), "is no LoRA"),
        Case("a textual inversion", holding({"emb_params": ones(2, 768)}), "is no LoRA"),
        Case(
            "an IP-Adapter",
            holding({f"image_proj.{i}.weight": ones(2) for i in range(9)}),
            "an IP-Adapter",
        ),
        Case(
            "a file of which hardly anything is known, with its tool in the header",
            holding(
                {f"mystery_{i}": ones(2) for i in range(9)},
                software=json.dumps({"name": "ai-toolkit"}),
            ),
            "ai-toolkit",
        ),
        Case(
            "an adapter of PEFT of another kind (VeRA), without its configuration",
            holding({"base_model.model.q.vera_lambda_b": ones(8)}),
            "VeRA",
        ),
    ),
)

OF_PEFT = Table(
    "Adapters of PEFT",
    "`prolora transfer`, `prolora batch`, `prolora inspect`",
    (
        Case("a configuration that is no JSON", configured("{"), "is no JSON"),
        Case("a configuration that is a list", configured([]), "is no configuration"),
        Case("the configuration of a model", configured({"hidden_size": 64}), "has no peft_type"),
        Case("another method", configured({**GOOD, "peft_type": "VERA"}), "PEFT's type VERA"),
        Case(
            "a LoRA for transposed weights, as GPT-2 has them",
            configured({**GOOD, "fan_in_fan_out": True}),
            "fan_in_fan_out",
        ),
        Case(
            "a LoRA whose start changed the checkpoint (PiSSA)",
            configured({**GOOD, "init_lora_weights": "pissa"}),
            "changes the checkpoint",
        ),
        Case(
            "a variant that needs code of its own (aLoRA)",
            configured({**GOOD, "alora_invocation_tokens": [1]}),
            "aLoRA",
        ),
        Case("an alpha that is text", configured({**GOOD, "lora_alpha": "6"}), "not a number"),
        Case(
            "no rank",
            configured({"peft_type": "LORA", "lora_alpha": 6}),
            "r in PEFT's configuration",
        ),
        Case(
            "the configuration of another LoRA",
            configured({**GOOD, "r": 8}),
            "belongs to another LoRA",
        ),
        Case(
            "ranks by module that are no table",
            configured({**GOOD, "alpha_pattern": [1]}),
            "is no table",
        ),
        Case(
            "ranks by a pattern that is none",
            configured({**GOOD, "rank_pattern": {"(": 4}}),
            "no pattern",
        ),
        Case(
            "a damaged configuration in the file's own header",
            holding(PAIR, lora_adapter_metadata="{"),
            "is no JSON",
        ),
        Case("a folder whose weights are a pickle", a_folder_with_a_pickle, "a pickle"),
        Case("a folder of several adapters", a_folder_of_adapters, "one, two"),
    ),
)

TABLES = (DAMAGED, NO_LORA, OF_PEFT)
