"""Everything that the pack asks of ComfyUI; no other file of it imports the host.

Written against the hosts from June 2024 to August 2026. Where they differ, the branch says which
one needs it.
"""

import inspect
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch

from ..prolora.adapters import AdapterFile, name_of, parse_adapter_file, read_peft_config
from ..prolora.algebra.subspace import can_decompose
from ..prolora.errors import ProLoRAError
from ..prolora.files.safetensors import open_safetensors, read_safetensors
from ..prolora.models.ggml import from_ggml, is_ggml
from ..prolora.models.key_map import key_map
from ..prolora.models.model import Model
from ..prolora.models.quantised import marks_in, refuse_files_without_weights
from ..prolora.models.references import Slice, WeightRef, swap_halves
from ..prolora.models.weights import StateDictWeights

# A projection holds, for one module, both weights in float32, and one in float64 with its Gram
# matrix, the eigenvectors and their workspace: about this many bytes for each element of a weight.
_BYTES_PER_ELEMENT = 64

# A host from June 2024 keeps diffusion models in "unet"; later ones renamed the folder.
_MODEL_FOLDERS = ("checkpoints", "diffusion_models", "unet")

log = logging.getLogger("ProLoRA")


# Files


def lora_names() -> list[str]:
    return list(folder_paths.get_filename_list("loras"))


def model_names() -> list[str]:
    """Checkpoints and diffusion models, by the names that the host's own loaders show."""
    names = (name for folder in _model_folders() for name in folder_paths.get_filename_list(folder))
    return list(dict.fromkeys(names))


def lora_path(name: str) -> Path:
    return _find(name, ["loras"])


def model_path(name: str) -> Path:
    return _find(name, _model_folders())


def output_path(filename_prefix: str) -> Path:
    """The next free file for a prefix in the host's output folder, numbered like saved images.

    Raises:
        ProLoRAError: the prefix leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    if not (output / filename_prefix).resolve().is_relative_to(output):
        raise ProLoRAError(
            f"The filename_prefix {filename_prefix!r} leads out of ComfyUI's output folder. "
            "Nothing was written. Use a name or a subfolder, like loras/my_lora."
        )
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(filename_prefix, str(output))
    except OSError as error:
        raise ProLoRAError(
            f"The folder of {filename_prefix!r} cannot be made in {output}: {error}. Nothing was "
            "written. May this folder be written to?"
        ) from error
    return Path(folder) / f"{name}_{counter:05}_.safetensors"


def _model_folders() -> list[str]:
    known = [folder for folder in _MODEL_FOLDERS if folder in folder_paths.folder_names_and_paths]
    return known[:2]  # a host that has both diffusion_models and unet means one folder by them


def _find(name: str, folders: list[str]) -> Path:
    for folder in folders:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return Path(path)
    raise ProLoRAError(
        f"{name} is not in ComfyUI's {' or '.join(folders)} folder. Was it moved or renamed? "
        "Choose a file from the list (press R to refresh it)."
    )


# Models


def read_lora(path: Path) -> AdapterFile:
    """Reads a LoRA file, with the names that the host's own loader would see."""
    tensors, metadata = read_safetensors(path)
    with suppress(ImportError):  # a host from June 2024 renames nothing
        from comfy.lora_convert import convert_lora

        tensors = convert_lora(tensors)
    return parse_adapter_file(tensors, name_of(path), metadata, read_peft_config(path))


def model_from_file(path: Path) -> Model:
    """A checkpoint that is never loaded as a model: the host says what its keys mean.

    The file is mapped into memory: a weight is read when it is used, and the system may drop it
    again. The host detects the architecture from the shapes, and builds the model on the meta
    device, where it has names but no data; that answers for the LoRA key map.

    Raises:
        ProLoRAError: the file is damaged, no safetensors file, or no model that the host knows.
    """
    with open_safetensors(path) as file:  # refuses a damaged file with a message for artists
        metadata = file.metadata() or {}
        refuse_files_without_weights(path.name, file.keys())
        state_dict = file.get_tensors(file.keys()) | marks_in(metadata)
    prefix = _diffusion_model_prefix(state_dict)
    config = _detect(state_dict, prefix, metadata)
    if config is None:
        raise ProLoRAError(
            f"ComfyUI does not recognise {path.name} as a checkpoint or diffusion model. Choose "
            "the checkpoint that the LoRA was trained on, or load it in the graph and connect its "
            "MODEL instead."
        )
    config.quant_config = None  # a quantised layer has no weight on the meta device, so no name
    try:
        model = config.get_model(state_dict, prefix, device=torch.device("meta"))
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ProLoRAError(
            f"ComfyUI takes {path.name} for a {type(config).__name__}, but cannot build one of its "
            f"figures ({error}). It may be newer than this ComfyUI: update it."
        ) from error
    unet = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    unet = config.process_unet_state_dict(unet)
    weights = {f"diffusion_model.{key}": tensor for key, tensor in unet.items()}
    names = comfy.lora.model_lora_keys_unet(model, _names_beyond(model, weights))
    if config.clip_target(state_dict) is not None:
        # Only the names are asked for, and these are the keys a loaded text encoder would have.
        text = config.process_clip_state_dict(dict(state_dict))
        text_model = SimpleNamespace(state_dict=lambda: text)
        names = comfy.lora.model_lora_keys_clip(text_model, names)
        weights |= text
    return _model(path.name, config, StateDictWeights(weights), names)


def _names_beyond(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Of weights that the host's class has no module for: it reads SD3's depth off the width."""
    known = model.state_dict().keys()
    beyond = {key: tensor for key, tensor in weights.items() if key not in known}
    return {name: ref.key for name, ref in key_map(StateDictWeights(beyond)).items()}


def model_from_graph(model: Any, clip: Any | None, name: str) -> Model:
    """A MODEL (and CLIP) of the graph, seen without the LoRAs that patch it. Neither is changed."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    patchers = [model]
    if clip is not None:
        names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, names)
        patchers.append(clip.patcher)
    return _model(name, model.model.model_config, PatchedModelWeights(patchers), names)


class PatchedModelWeights:
    """The base weights of loaded models, found and dequantised when they are read.

    Not before: the host may move, patch or unload a model between two prompts.
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
        return tuple(_base_weight(self._patchers[key], key)[0].shape)

    def read(self, key: str) -> torch.Tensor:
        weight, dequantise = _base_weight(self._patchers[key], key)
        if is_ggml(weight):  # what ComfyUI-GGUF loads: it dequantises in its layers, not here
            return from_ggml(weight, key)
        if dequantise is None:
            return weight
        if weight.dtype.itemsize == 1:  # 0.3.64 multiplies by the scale, which fp8 cannot
            weight = weight.float()
        dequantised: torch.Tensor = dequantise(weight, inplace=False)
        return dequantised


def file_behind(prompt: dict[str, Any], node_id: str, input_name: str) -> str:
    """The file that a MODEL input comes from, found by following the graph; "" if unknown.

    A MODEL does not know its file, so the prompt is asked: back along the `model` links, through
    the nodes that patch it, to the loader.
    """
    inputs = prompt.get(node_id, {}).get("inputs", {})
    link = inputs.get(input_name)
    seen = set()
    while isinstance(link, list) and link[0] not in seen:
        seen.add(link[0])
        inputs = prompt.get(link[0], {}).get("inputs", {})
        link = inputs.get("model")
    files = (value for value in inputs.values() if isinstance(value, str) and "." in value)
    return next((Path(value).name for value in files if seen), "")


def _has(model: Any, key: str) -> bool:
    """False for what is in a state dict only, as the scales of 0.33.0's quantised layers are."""
    try:
        return comfy.utils.get_attr(model, key) is not None
    except AttributeError:
        return False


def _base_weight(patcher: Any, key: str) -> tuple[torch.Tensor, Any]:
    """The unpatched weight, and what dequantises it (None: nothing to do). No copy is made."""
    if hasattr(comfy.model_patcher, "get_key_weight"):
        weight, _, dequantise = comfy.model_patcher.get_key_weight(patcher.model, key)
    else:  # a host from June 2024 has no quantised weights
        weight, dequantise = comfy.utils.get_attr(patcher.model, key), None
    if key in patcher.backup:  # where the host keeps what it patched in place
        kept = patcher.backup[key]
        weight = getattr(kept, "weight", kept)
    if key in getattr(patcher, "hook_backup", {}):
        weight = patcher.hook_backup[key][0]
    return weight, dequantise


def _detect(
    state_dict: dict[str, torch.Tensor], prefix: str, metadata: dict[str, str]
) -> Any | None:
    """The host's configuration for a checkpoint, None for one that it does not know."""
    detect = comfy.model_detection.model_config_from_unet
    takes_metadata = "metadata" in inspect.signature(detect).parameters
    options = {"metadata": metadata} if takes_metadata else {}
    try:
        return detect(state_dict, prefix, **options)
    except KeyError:  # how a host from June 2024 says that it does not know this
        return None


def _diffusion_model_prefix(state_dict: dict[str, torch.Tensor]) -> str:
    prefix = "model.diffusion_model."  # the only one that a host from June 2024 loads
    if hasattr(comfy.model_detection, "unet_prefix_from_state_dict"):
        prefix = comfy.model_detection.unet_prefix_from_state_dict(state_dict)
    return prefix if any(key.startswith(prefix) for key in state_dict) else ""


def _model(name: str, config: Any, weights: Any, names: dict[str, Any]) -> Model:
    key_map = {lora: _weight_ref(place) for lora, place in names.items()}
    key_map = {lora: ref for lora, ref in key_map.items() if _is_in(ref, weights)}
    return Model(name, type(config).__name__, weights, key_map)


def _is_in(ref: WeightRef, weights: Any) -> bool:
    """Whether there is such a weight and part: 0.33.0 cuts Lumina 2's qkv beyond its end."""
    if ref.key not in weights or ref.part is None:
        return ref.key in weights
    return ref.part.start + ref.part.length <= weights.shape(ref.key)[ref.part.dim]


def _weight_ref(place: str | tuple[Any, ...]) -> WeightRef:
    """The host gives a key, or (key, slice of a fused weight or None, maybe a reordering).

    The host applies the reordering to an update. It swaps halves, so it is its own inverse and
    takes a weight into the order of the update as well.

    Raises:
        ProLoRAError: the host reorders in another way.
    """
    if isinstance(place, str):
        return WeightRef(place)
    key, part, *reorder = place
    return WeightRef(key, None if part is None else Slice(*part), any(map(_swaps_halves, reorder)))


def _swaps_halves(reorder: Any) -> bool:
    rows = torch.arange(4)
    found = reorder(rows)
    if not torch.equal(found, rows) and not torch.equal(found, swap_halves(rows)):
        raise ProLoRAError(
            "This ComfyUI reorders the rows of a weight in a way that ProLoRA does not know. Use "
            "ProLoRA's command line, or another version of either."
        )
    return not torch.equal(found, rows)


# Work


def device() -> torch.device:
    """The host's device, where it can decompose a weight (Apple's cannot); else the CPU."""
    chosen: torch.device = comfy.model_management.get_torch_device()
    return chosen if can_decompose(chosen) else torch.device("cpu")


def make_room(names: Iterable[str], model: Model) -> None:
    """Asks the host to free what the largest of these modules needs, as core nodes do."""
    refs = (model.resolve(name) for name in names)
    sizes = (torch.Size(model.weights.shape(ref.key)).numel() for ref in refs if ref is not None)
    largest = max(sizes, default=0)
    comfy.model_management.free_memory(largest * _BYTES_PER_ELEMENT, device())


class Progress:
    """Drives the host's progress bar, and stops the job when the user pressed Cancel."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, done: int, total: int, name: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(total)
        self._bar.update_absolute(done, total)


def apply_lora(
    model: Any,
    clip: Any | None,
    lora: dict[str, torch.Tensor],
    strength_model: float,
    strength_clip: float,
) -> tuple[Any, Any]:
    """The patches of the host's own LoRA loader; the inputs stay as they were."""
    patched: tuple[Any, Any] = comfy.sd.load_lora_for_models(
        model, clip, lora, strength_model, strength_clip
    )
    return patched


def show(text: str, node_id: str, warning: str = "") -> None:
    """Puts a text on the node, where the page can show one, and into the log."""
    log.info("%s", text)
    if warning:
        log.warning("%s", warning)
    try:
        from server import PromptServer
    except ImportError:  # a host from June 2024 has it elsewhere, and its page shows no texts
        return
    send = getattr(PromptServer.instance, "send_progress_text", None)
    if send is not None:
        send(text, node_id)
