"""A MODEL and CLIP of the graph as the core's Model: base weights, names, and the file's name."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.utils
import torch

from ...prolora.errors import ProLoRAError, one_line
from ...prolora.models.ggml import from_ggml, is_ggml
from ...prolora.models.model import Model
from .compiled import compiled_parts
from .files import model_path
from .key_map import host_model


def model_from_graph(model: Any, clip: Any | None, name: str, path: Path | None = None) -> Model:
    """A Model of a MODEL (and CLIP) of the graph, without the LoRAs that patch them.

    Neither is changed.

    Args:
        model, clip: the host's; clip may be None.
        name: what to call the model in reports.
        path: of its file, see path_behind.
    """
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    patchers = [model]
    if clip is not None:
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
        patchers.append(clip.patcher)
    return host_model(name, model.model.model_config, PatchedModelWeights(patchers), names, path)


def is_one(model: Model, other: Model) -> bool:
    """Whether two Models are surely of one file, or of one loaded MODEL and CLIP."""
    if model is other:
        return True
    ours, theirs = model.weights, other.weights
    if isinstance(ours, PatchedModelWeights) and isinstance(theirs, PatchedModelWeights):
        return ours.is_of(theirs)
    if isinstance(ours, PatchedModelWeights) or isinstance(theirs, PatchedModelWeights):
        return False
    return model.path is not None and model.path == other.path


def kept_as(model: Any) -> Callable[[str], torch.dtype | None]:
    """The key of a MODEL's weight -> the floating-point type it is kept in; None: quantised."""
    weights = PatchedModelWeights([model])

    def of(key: str) -> torch.dtype | None:
        weight, dequantise = weights.base(key)
        scaled = dequantise is not None and weight.dtype.itemsize == 1  # fp8 of 0.3.64
        plain = type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.is_floating_point()
        return weight.dtype if plain and not scaled else None

    return of


def without_loras(model: Any) -> Any:
    """The MODEL without the LoRAs that patch it, and not compiled. All else stays."""
    loras = {"bypass_lora"} & getattr(model, "injections", {}).keys()  # 0.33.0, while it runs
    compiled = compiled_parts(model)
    if not model.patches and not loras and not compiled:
        return model
    bare = model.clone()
    bare.patches, bare.patches_uuid = {}, uuid.uuid4()  # by which the host knows what is loaded
    for name in loras:
        bare.remove_injections(name)
    for name in compiled:
        del bare.object_patches[name]
    return bare


def clip_without_loras(clip: Any) -> Any:
    """The same of a CLIP."""
    bare = clip.clone()
    bare.patcher = without_loras(bare.patcher)
    return bare


class PatchedModelWeights:
    """The base weights of loaded models, without patches, dequantised.

    A weight is looked up whenever it is read, because the host may move, patch or unload a model
    between two prompts.

    Several threads may read at once while a node runs: to look up and to dequantise a weight
    changes nothing of it (0.33.0's kernels keep their choice of a backend for each thread), and the
    only thread that moves or patches models is the one that waits for the node.
    """

    def __init__(self, patchers: list[Any]) -> None:
        self._patchers = {
            key: patcher
            for patcher in patchers
            for key in patcher.model_state_dict()
            if _has(patcher.model, key)
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._patchers)

    def __contains__(self, key: object) -> bool:
        return key in self._patchers

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.base(key)[0].shape)

    def is_of(self, other: "PatchedModelWeights") -> bool:
        """Whether these are the weights of the same models; what patches them does not count."""
        models = [{id(p.model) for p in one._patchers.values()} for one in (self, other)]
        return models[0] == models[1]

    def base(self, key: str) -> tuple[torch.Tensor, Any]:
        """See _base_weight."""
        return _base_weight(self._patchers[key], key)

    def read(self, key: str) -> torch.Tensor:
        weight, dequantise = self.base(key)
        if is_ggml(weight):  # what ComfyUI-GGUF loads: it dequantises in its layers, not here
            return from_ggml(weight, key)
        if dequantise is None:
            return weight
        if weight.dtype.itemsize == 1:  # 0.3.64 multiplies by the scale, which fp8 cannot
            weight = weight.float()
        dequantised: torch.Tensor = dequantise(weight, inplace=False)
        return dequantised


def file_behind(prompt: dict[str, Any], node_id: str, input_name: str) -> str:
    """The name of the file that a MODEL input comes from; "" if it is not known.

    A MODEL does not hold its file's name. This follows the `model` links of the prompt backwards,
    through the nodes that patch the MODEL, to its loader.

    Args:
        prompt: the host's prompt, node id -> class_type and inputs.
        node_id, input_name: the input.
    """
    names = (Path(value).name for value in _files_behind(prompt, node_id, input_name))
    return one_line(next(names, ""))


def path_behind(prompt: dict[str, Any], node_id: str, input_name: str) -> Path | None:
    """The path of that file; None where it is none of the host's models."""
    for value in _files_behind(prompt, node_id, input_name):
        with suppress(ProLoRAError):
            return model_path(value)
    return None


def _files_behind(prompt: dict[str, Any], node_id: str, input_name: str) -> list[str]:
    """What looks like a file's name in the inputs of the loader."""
    inputs = prompt.get(node_id, {}).get("inputs", {})
    link = inputs.get(input_name)
    seen = set()
    while _is_link(link) and link[0] not in seen:
        seen.add(link[0])
        inputs = prompt.get(link[0], {}).get("inputs", {})
        link = inputs.get("model")
    values = [value for value in inputs.values() if isinstance(value, str) and "." in value]
    return values if seen else []


def _is_link(value: Any) -> bool:
    """A host looks only at the inputs that a node has; what else a workflow holds may be none."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _has(model: Any, key: str) -> bool:
    """False for an entry that only the state dict has, such as the scales of 0.33.0's layers."""
    try:
        return comfy.utils.get_attr(model, key) is not None
    except AttributeError:
        return False


def _base_weight(patcher: Any, key: str) -> tuple[torch.Tensor, Any]:
    """The unpatched weight and the function that dequantises it, or None. No copy is made."""
    if hasattr(comfy.model_patcher, "get_key_weight"):
        weight, _, dequantise = comfy.model_patcher.get_key_weight(patcher.model, key)
    else:  # a host from June 2024 has no quantised weights
        weight, dequantise = comfy.utils.get_attr(patcher.model, key), None
    if key in patcher.backup:  # the host keeps the weights here that it patches in place
        kept = patcher.backup[key]
        weight = getattr(kept, "weight", kept)
    if key in getattr(patcher, "hook_backup", {}):
        weight = patcher.hook_backup[key][0]
    return weight, dequantise
