"""PEFT's configuration of an adapter: the alphas that PEFT does not keep in the file of weights.

PEFT writes adapter_config.json beside adapter_model.safetensors; diffusers writes the same into the
header of its one file, under `lora_adapter_metadata`, each field with its component in front
(`transformer.lora_alpha`, `text_encoder.r`), or with none. ComfyUI reads neither.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ProLoRAError, one_line
from ..files.json_text import parse_json
from .adapter import Origin
from .patterns import fits

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"  # the file that such a configuration is for
_HEADER_KEY = "lora_adapter_metadata"

# PEFT type -> the field of its alpha; None for one that has no alpha.
_ALPHA_FIELD = {
    "LORA": "lora_alpha",
    "LOHA": "alpha",
    "LOKR": "alpha",
    "OFT": None,
    "BOFT": None,
    "IA3": None,
}
# An initialisation that starts from a part of the weight, which it takes out of the weight.
_CHANGES_THE_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
# What makes another update of a LoRA's tensors, or changes the weight as well.
_VARIANTS = {
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "use_bdlora": "BD-LoRA",
    "use_qalora": "QALoRA",
}
_MOST_PATTERNS = 4096  # a large model has about a thousand modules
_AGAIN = "Copy or download both again from where they came from."


def config_beside(path: Path) -> Path | None:
    """The adapter_config.json that belongs to a file of weights, if there is one.

    A folder of many LoRAs may hold a stray one: it is for a file of PEFT's own name only.
    """
    config = path.with_name(CONFIG_NAME)
    return config if path.name == WEIGHTS_NAME and config.is_file() else None


def read_peft_config(path: Path) -> dict[str, Any]:
    """What config_beside holds; {} where there is none.

    Args:
        path: of the weights.

    Raises:
        ProLoRAError: it cannot be read, is no JSON object, or of no type that is read here.
    """
    config = config_beside(path)
    if config is None:
        return {}
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProLoRAError(f"{config} cannot be read: {error}. {_AGAIN}") from error
    return _checked(_parsed(text, f"{path.name}: the {CONFIG_NAME} beside it"), path.name)


@dataclass(frozen=True)
class PeftAlphas:
    """The alphas of a file's modules, as PEFT would have them.

    Attributes:
        place: where they were found, for people.
        configs: the start of a module's name -> the configuration of such modules.
    """

    place: str = ""
    configs: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def note(self) -> str:
        return (
            f"alpha from {self.place}; ComfyUI's own loader does not read it and would use scale 1"
        )

    def of(self, module: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> float | None:
        """The alpha that, divided by the rank, gives PEFT's scale; None where that is 1 or unknown.

        With rsLoRA (Kalajdzievski 2023, arXiv 2312.03732) that scale is alpha / sqrt(rank).

        Raises:
            ProLoRAError: the configuration is for factors of another rank.
        """
        config, name = self._config(module)
        field = _ALPHA_FIELD.get(str(config.get("peft_type", "LORA")))
        if field is None or field not in config:
            return None
        alpha = _number(_chosen(config, "alpha_pattern", field, name, origin), field, origin)
        rank = rank_in(config, name, origin)
        factors = parts["down"].shape[0] if "down" in parts and parts["down"].ndim else rank
        if rank <= 0 or factors != rank:
            raise ProLoRAError(
                f"{origin.file}: {self.place} says rank {rank:g} for the module {module}, whose "
                f"factors have rank {factors:g}: it belongs to another LoRA. {_AGAIN}"
            )
        alpha *= math.sqrt(rank) if config.get("use_rslora") is True else 1
        return None if alpha == rank else alpha

    def _config(self, module: str) -> tuple[Mapping[str, Any], str]:
        """The configuration of a module, and its name in the tree that PEFT saw."""
        configs = self.configs or {}
        for prefix, config in configs.items():
            if module.startswith(prefix):
                return config, module.removeprefix(prefix)
        # ComfyUI's names for one diffusion model: the prefix is another one
        return (next(iter(configs.values())), module) if len(configs) == 1 else ({}, module)


def peft_alphas(origin: Origin, metadata: Mapping[str, str]) -> PeftAlphas:
    """Where a file's alphas are: in its configuration, or in its header.

    Raises:
        ProLoRAError: the header's entry is no JSON object, or of no type that is read here.
    """
    if origin.config:
        return PeftAlphas(CONFIG_NAME, {"base_model.model.": origin.config})
    if _HEADER_KEY not in metadata:
        return PeftAlphas()
    place = f"the header's {_HEADER_KEY}"
    configs: dict[str, dict[str, Any]] = {}
    for key, value in _parsed(metadata[_HEADER_KEY], f"{origin.file}: {place}").items():
        component, _, field = key.rpartition(".")
        configs.setdefault(f"{component}." if component else "", {})[field] = value
    for config in configs.values():
        _checked({"peft_type": "LORA", **config}, origin.file)
    return PeftAlphas(place, configs)


def rank_in(config: Mapping[str, Any], module: str, origin: Origin) -> float:
    """The rank that a configuration gives a module.

    Raises:
        ProLoRAError: it is no number, or its pattern is none.
    """
    return _number(_chosen(config, "rank_pattern", "r", module, origin), "r", origin)


def number_in(config: Mapping[str, Any], field: str, default: float, origin: Origin) -> float:
    """A field of a configuration, or its default.

    Raises:
        ProLoRAError: it is no number.
    """
    return _number(config.get(field, default), field, origin)


def _parsed(text: str, what: str) -> dict[str, Any]:
    try:
        config = parse_json(text)
    except ValueError as error:
        raise ProLoRAError(f"{what} is damaged, it is no JSON: {error}. {_AGAIN}") from error
    if not isinstance(config, dict):
        raise ProLoRAError(f"{what} is no configuration but a {type(config).__name__}. {_AGAIN}")
    return config


def _checked(config: dict[str, Any], file: str) -> dict[str, Any]:
    """Refuses what would make another update of the tensors than the one that is read here."""
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in _ALPHA_FIELD:
        what = f"is of PEFT's type {kind}" if kind else "has no peft_type"
        raise ProLoRAError(
            f"{file}: its PEFT configuration {what}. ProLoRA reads {', '.join(_ALPHA_FIELD)}: "
            "export the adapter as a LoRA."
        )
    if config.get("fan_in_fan_out") is True:
        raise ProLoRAError(
            f"{file} was trained on weights that lie transposed (fan_in_fan_out), as GPT-2's do; "
            "ProLoRA does not read such models. Choose another LoRA."
        )
    for field, variant in _VARIANTS.items():
        if config.get(field):
            raise ProLoRAError(
                f"{file} is a variant of LoRA that ProLoRA does not read: {variant} ({field} in "
                "its PEFT configuration). Merge it into its base model with PEFT "
                "(merge_and_unload), and extract a LoRA from the two."
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_THE_BASE):
        raise ProLoRAError(
            f"{file} was trained from {start}, which changes the checkpoint's own weights as well. "
            "Save it with PEFT's path_initial_model_for_weight_conversion, which makes it a LoRA "
            "for the unchanged checkpoint."
        )
    return config


def _chosen(
    config: Mapping[str, Any], patterns: str, default: str, name: str, origin: Origin
) -> Any:
    """A module's own value where a pattern matches the end of its name, else that for all."""
    table = config.get(patterns) or {}
    if not isinstance(table, dict) or len(table) > _MOST_PATTERNS:
        raise ProLoRAError(
            f"{origin.file}: the {patterns} of PEFT's configuration is no table of at most "
            f"{_MOST_PATTERNS} modules. {_AGAIN}"
        )
    for pattern, value in table.items():
        try:
            if fits(pattern, name):
                return value
        except ValueError as error:
            raise ProLoRAError(
                f"{origin.file}: the {patterns} of PEFT's configuration has {one_line(pattern)!r}, "
                f"which is no pattern: {error}. {_AGAIN}"
            ) from error
    return table.get(name, config.get(default))


def _number(value: Any, field: str, origin: Origin) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -1e9 < value < 1e9:  # NaN fails too
        said = "missing" if value is None else f"{value!r}, not a number"
        raise ProLoRAError(f"{origin.file}: {field} in PEFT's configuration is {said}. {_AGAIN}")
    return float(value)
