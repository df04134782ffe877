"""The files of a small model in a ComfyUI's folders, and the start of a graph with them."""

from dataclasses import dataclass
from pathlib import Path
from shutil import copy

import pytest
from safetensors.torch import save_file

from comfy_harness.client import ComfyClient

from ..prompts import PromptBuilder
from .architectures import ARCHITECTURES
from .model import SmallModel
from .random_weights import child, lora, lora_of_pruned, parent


@dataclass(frozen=True)
class SmallFiles:
    """What lies in the folders, by the names that the loaders show."""

    name: str
    model: SmallModel

    @property
    def prefix(self) -> str:
        return f"small_{self.name}"

    @property
    def parent(self) -> str:
        return f"{self.prefix}.safetensors"

    @property
    def child(self) -> str:
        return f"{self.prefix}_child.safetensors"

    @property
    def pruned(self) -> str:
        return f"{self.prefix}_pruned.safetensors"

    @property
    def lora(self) -> str:
        return f"{self.prefix}_lora.safetensors"

    @property
    def pruned_lora(self) -> str:
        return f"{self.prefix}_pruned_lora.safetensors"

    def load(self, graph: PromptBuilder, name: str) -> list:
        """The MODEL of one of the files."""
        if self.model.in_checkpoint:
            return graph.checkpoint(name)
        return graph.node("UNETLoader", unet_name=name, weight_dtype="default")


def write_small_files(name: str, models: Path) -> SmallFiles:
    files = SmallFiles(name, ARCHITECTURES[name])
    weights = parent(files.model)
    tensors = {files.parent: weights, files.child: child(files.model, weights)}
    if files.model.counted:
        tensors[files.pruned] = child(files.model, weights, pruned=True)
    folder, prefix = "unet", ""
    if files.model.in_checkpoint:
        folder, prefix = "checkpoints", "model.diffusion_model."
    for file_name, of_file in tensors.items():
        named = {f"{prefix}{key}": tensor for key, tensor in of_file.items()}
        save_file(named, models / folder / file_name)
    of_parent = lora(files.model)
    save_file(of_parent, models / "loras" / files.lora)
    of_pruned = lora_of_pruned(files.model, of_parent)
    save_file(of_pruned, models / "loras" / files.pruned_lora)
    return files


def offer_saved_lora(prefix: str, folder: Path) -> str:
    """Puts what Save Transferred LoRA wrote where the core loader finds it; its name there."""
    written = max((folder / "output" / "loras").glob(f"{prefix}_0*.safetensors"))
    copy(written, folder / "models" / "loras")
    return written.name


def skip_unless_it_loads(model: SmallModel, client: ComfyClient) -> None:
    version = client.system_stats()["system"].get("comfyui_version", "0")
    if tuple(int(part) for part in version.split(".")) < model.since:
        pytest.skip("this host knows this architecture at its full widths only, or not at all")
