"""A folder as PEFT's save_pretrained writes it: the weights of an adapter, and its configuration.

Hu et al., "LoRA", arXiv 2106.09685; the fields are those of PEFT's LoraConfig.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import ProLoRAError, truncated_list
from ..models.transformers_model import PEFT
from .peft_config import CONFIG_NAME, WEIGHTS_NAME

_DOWN, _MAGNITUDE = ".lora_A.weight", ".lora_magnitude_vector"
_PICKLE = "adapter_model.bin"

# What an adapter's configuration says of any type, and what stays true of it on another base.
_OF_ANY_TYPE = ("peft_version", "task_type", "auto_mapping", "target_modules")
# Choices of which modules get a LoRA, in place of which stands the list of those that have one.
_CHOICES = ("exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters")
# What else a LoRA's folder may hold, or how it was trained: nothing of it is in what is written.
_NO_MORE = (
    *("revision", "modules_to_save", "trainable_token_indices", "layer_replication"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_config"),
)


def is_adapter_folder(path: Path) -> bool:
    """Whether it is a folder with an adapter of PEFT in it."""
    return path.is_dir() and any((path / n).is_file() for n in (WEIGHTS_NAME, CONFIG_NAME))


def weights_in(path: Path) -> Path:
    """The file of a LoRA's weights: in a folder of PEFT, else the path itself."""
    return path / WEIGHTS_NAME if path.is_dir() else path


def refuse_without_weights(path: Path) -> None:
    """Raises for a folder that has no adapter in it.

    Raises:
        ProLoRAError: it is one.
    """
    if weights_in(path).is_file() or not path.is_dir():
        return
    if (path / _PICKLE).is_file():
        raise ProLoRAError(
            f"{path} has its weights in {_PICKLE}, a pickle, which can run code when it is opened, "
            f"so ProLoRA does not open it. Save the adapter as {WEIGHTS_NAME} with PEFT "
            "(save_pretrained)."
        )
    inner = sorted(p.name for p in path.iterdir() if is_adapter_folder(p))
    advice = f"a folder in it: {', '.join(truncated_list(inner, 4))}"
    raise ProLoRAError(
        f"{path} is a folder. Choose {advice if inner else 'a file in it'}, or the folder of an "
        f"adapter of PEFT: one that has {WEIGHTS_NAME}."
    )


def folder_files(folder: Path) -> list[Path]:
    """The files of a folder of PEFT."""
    return [folder / WEIGHTS_NAME, folder / CONFIG_NAME]


def moved_config(
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    modules: Iterable[str],
    base: str,
) -> dict[str, Any]:
    """The configuration of a LoRA that was moved, in PEFT's names and without alphas.

    The scales are in the factors, so every alpha is the rank. The original's words for the modules
    stay where in the target they mean those of the result; else each module is listed.

    Args:
        config: of the original, of any type; {} where there was none.
        tensors: of the result, under PEFT's keys.
        modules: of the target, under PEFT's names.
        base: the target's name.
    """
    ranks = {
        key.removesuffix(_DOWN).removeprefix(PEFT): tensor.shape[0]
        for key, tensor in tensors.items()
        if key.endswith(_DOWN)
    }
    rank = Counter(ranks.values()).most_common(1)[0][0] if ranks else 8
    others = {module: own for module, own in ranks.items() if own != rank}
    is_lora = config.get("peft_type", "LORA") == "LORA"
    kept = {name: v for name, v in config.items() if is_lora or name in _OF_ANY_TYPE}
    if _chosen(kept, modules) != ranks.keys():
        kept["target_modules"] = sorted(ranks)
    kept |= {name: None for name in _CHOICES if name in kept}
    return {
        **kept,
        **{name: {} if kept[name] == {} else None for name in _NO_MORE if name in kept},
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_rslora": False,
        "use_dora": any(key.endswith(_MAGNITUDE) for key in tensors),
        "lora_bias": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _chosen(config: Mapping[str, Any], modules: Iterable[str]) -> set[str]:
    """The modules that target_modules names, by PEFT's rule; none beside other choices."""
    names = config.get("target_modules")
    if not isinstance(names, list) or any(config.get(choice) for choice in _CHOICES):
        return set()
    ends = tuple(f".{name}" for name in names)
    return {m.removeprefix(PEFT) for m in modules if f".{m}".endswith(ends)}
