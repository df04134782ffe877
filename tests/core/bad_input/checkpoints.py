"""Files and folders that are chosen as a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from prolora.adapters import lora_state_dict
from prolora.models.key_map import load_checkpoint
from prolora.models.weights import SafetensorsWeights, StateDictWeights
from prolora.named_files import checkpoint, load_pair

from ..small_models import random_lora
from .case import Case, Table, ones, written

COMMANDS = "`prolora transfer`, `prolora batch`, `prolora similarity`, `prolora extract`"
SHARD = "diffusion_pytorch_model-00001-of-00002.safetensors"
WEIGHT = "diffusion_model.layer.weight"


def a_lora() -> object:
    save_file(lora_state_dict([random_lora("lora_unet_x", (8, 8))]), "style.safetensors")
    return checkpoint(Path("style.safetensors"))


def one_file_twice() -> object:
    save_file({WEIGHT: ones(2, 2)}, "a.safetensors")
    return load_pair(Path("a.safetensors"), Path("a.safetensors"))


def folder_with(*files: str) -> Callable[[], object]:
    def call() -> object:
        Path("model/unet").mkdir(parents=True)
        for name in files:
            written(f"model/{name}", b"PK\x03\x04")
        return load_checkpoint(Path("model"))

    return call


def index(content: object) -> Callable[[], object]:
    """A model in shards, by what its index says."""

    def call() -> object:
        text = content if isinstance(content, str) else json.dumps(content)
        written("model/unet/diffusion_pytorch_model.safetensors.index.json", text)
        return load_checkpoint(Path("model"))

    return call


def naming(name: object) -> Callable[[], object]:
    return index({"weight_map": {"conv_in.weight": name}})


def saved(tensors: dict[str, torch.Tensor], **metadata: str) -> Callable[[], object]:
    def call() -> object:
        save_file(tensors, "a.safetensors", metadata)
        return SafetensorsWeights(Path("a.safetensors"))

    return call


def quantised(**parts: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        weights = StateDictWeights({f"layer.{part}": tensor for part, tensor in parts.items()})
        return weights.shape("layer.weight"), weights.read("layer.weight")

    return call


def marked(**said: str) -> torch.Tensor:
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


INT8 = torch.zeros(4, 8, dtype=torch.int8)
BYTES = torch.zeros(4, 8, dtype=torch.uint8)

FILES = Table(
    "Checkpoints",
    COMMANDS,
    (
        Case("a LoRA as a checkpoint", a_lora, "is a LoRA, not a checkpoint"),
        Case("one checkpoint for both", one_file_twice, "is named for both"),
        Case("a folder without a model", folder_with("README.md"), "Choose a file in it"),
        Case(
            "a folder whose weights are a pickle",
            folder_with("unet/diffusion_pytorch_model.bin"),
            "a pickle",
        ),
        Case("shards without their index", folder_with(f"unet/{SHARD}"), "no index of them"),
        Case(
            "two variants of the weights",
            folder_with(*(f"unet/diffusion_pytorch_model.{v}.safetensors" for v in ("a", "b"))),
            "more than one variant",
        ),
        Case(
            "two diffusion models in one folder",
            folder_with(
                *(
                    f"{name}/diffusion_pytorch_model.safetensors"
                    for name in ("transformer", "transformer_2")
                )
            ),
            "two diffusion models",
        ),
        Case("an index that is no JSON", index("{'weight_map'"), "is no index of shards"),
        Case("an index without a map", index({"metadata": {}}), "is no index of shards"),
        Case("an index whose JSON never ends", index("[" * 100_000), "is no index of shards"),
        Case("an index with a shard that is missing", naming(SHARD), "that are not there"),
        Case("an index that names a pickle", naming("model-00001-of-00002.bin"), "a pickle"),
        Case(
            "an index that climbs out of its folder", naming("../a.safetensors"), "opens no other"
        ),
        Case("an index with a path from the root", naming("/etc/a.safetensors"), "opens no other"),
        Case("an index with a drive of Windows", naming("C:a.safetensors"), "opens no other"),
        Case("an index that names another kind of file", naming("config.json"), "opens no other"),
    ),
)

GGUF = Table(
    "Checkpoints in GGUF",
    "`prolora transfer`, `prolora batch`, `prolora similarity`",
    (
        Case(
            "a GGUF that does not exist",
            lambda: load_checkpoint(Path("model.gguf")),
            "does not exist",
        ),
        Case(
            "the page of a log-in, saved as a GGUF",
            lambda: load_checkpoint(written("model.gguf", b"<html>" * 20)),
            "is not a readable GGUF",
        ),
        Case(
            "a GGUF that broke off",
            lambda: load_checkpoint(written("model.gguf", b"GGUF\x03\0\0\0\x02\0")),
            "is not a readable GGUF",
        ),
    ),
)

QUANTISED = Table(
    "Checkpoints in forms that are not read",
    f"Load Source LoRA, Load LoRA for Model, {COMMANDS}",
    (
        Case("Nunchaku's SVDQuant", saved({"b.0.qweight": INT8}), "SVDQuant"),
        Case("a model of quanto", saved({"b.0.weight._data": INT8}), "quanto"),
        Case(
            "a model of compressed-tensors",
            saved({"b.0.weight_packed": INT8}),
            "compressed-tensors",
        ),
        Case(
            "a header of quantisation that is none",
            saved({WEIGHT: ones(2, 2)}, _quantization_metadata="{"),
            "cannot be read",
        ),
        Case(
            "a form of later days",
            quantised(weight=INT8, comfy_quant=marked(format="fp3")),
            "unknown here",
        ),
        Case(
            "a mark that does not say its form",
            quantised(weight=INT8, comfy_quant=BYTES[0]),
            "does not say",
        ),
        Case(
            "int4 in rotations (W4A4)",
            quantised(weight=INT8, comfy_quant=marked(format="convrot_w4a4")),
            "W4A4",
        ),
        Case(
            "fp8 without its scale",
            quantised(
                weight=BYTES.view(torch.float8_e4m3fn), comfy_quant=marked(format="float8_e4m3fn")
            ),
            "is missing",
        ),
        Case(
            "fp8 in blocks",
            quantised(weight=BYTES.view(torch.float8_e4m3fn), weight_scale_inv=ones(2, 3)),
            "fp8 in blocks",
        ),
        Case(
            "nvfp4 that ComfyUI did not write",
            quantised(
                weight=BYTES,
                weight_scale=ones(4, 1).to(torch.float8_e4m3fn),
                weight_scale_2=ones(1),
            ),
            "nvfp4",
        ),
        Case(
            "bitsandbytes in 4 bits",
            quantised(weight=torch.zeros(64, 1, dtype=torch.uint8), **{"weight.absmax": ones(2)}),
            "bitsandbytes",
        ),
    ),
)

TABLES = (FILES, GGUF, QUANTISED)
