"""A model of the transformers library: its weights under its own keys, as PEFT names its modules.

Such a model is known by the config.json beside its weights, which names its class. The text
encoders in a folder of diffusers are of that library too, but have ComfyUI's names
(text_encoder_layout.py).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProLoRAError
from ..files.json_text import parse_json
from .model import Model
from .model_folder import COMPONENTS
from .rearranged import Origin, RearrangedWeights
from .references import WeightRef
from .weights import Weights

TRANSFORMERS = "transformers "  # what the architecture of such a model begins with
PEFT = "base_model.model."  # what PEFT calls its modules begins with
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_HEAD = "lm_head.weight"
_WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True)
class TransformersConfig:
    """What a transfer needs of a config.json.

    Attributes:
        architecture: the class of the model, as LlamaForCausalLM.
        vocabulary: how many tokens it knows; 0 where that is not said.
    """

    architecture: str
    vocabulary: int = 0


def transformers_config(path: Path) -> TransformersConfig | None:
    """The configuration in a model's folder, or beside its model.safetensors; None for other kinds.

    Raises:
        ProLoRAError: it cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    config = folder / _CONFIG
    is_one = path.is_dir() or path.name == _WEIGHTS
    if not is_one or folder.absolute().name in COMPONENTS or not config.is_file():
        return None
    try:
        found = parse_json(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProLoRAError(f"{config} cannot be read: {error}. Download it again.") from error
    classes = found.get("architectures") if isinstance(found, dict) else None
    if not isinstance(classes, list) or not classes or not isinstance(classes[0], str):
        return None
    text = found.get("text_config")  # of a model for pictures and text
    sizes = (part.get("vocab_size") for part in (found, text) if isinstance(part, dict))
    return TransformersConfig(classes[0], next((n for n in sizes if isinstance(n, int)), 0))


def transformers_model(name: str, weights: Weights, config: TransformersConfig) -> Model:
    """A model as a transfer sees it; only keys and shapes are looked at."""
    origins = {key: (Origin(key),) for key in weights} | _tied_head(weights, config)
    weights = RearrangedWeights(weights, origins)
    return Model(name, TRANSFORMERS + config.architecture, weights, _names(weights))


def _tied_head(weights: Weights, config: TransformersConfig) -> dict[str, tuple[Origin, ...]]:
    """The head that has the embedding's weight: it is in no file, but LoRAs may be on it."""
    if _HEAD in weights or not config.architecture.endswith(_WITH_HEAD):
        return {}
    tables = [key for key in weights if _is_table(weights.shape(key), config.vocabulary)]
    return {_HEAD: (Origin(tables[0]),)} if len(tables) == 1 else {}


def _is_table(shape: tuple[int, ...], vocabulary: int) -> bool:
    return len(shape) == 2 and shape[0] == vocabulary


def _names(weights: Weights) -> Mapping[str, WeightRef]:
    """PEFT's name of every module, the bare one, and the bare one in the model without its head."""
    places = {
        key.removesuffix(".weight"): WeightRef(key) for key in weights if key.endswith(".weight")
    }
    start = _inner(places)
    headless = {
        module.removeprefix(start): place
        for module, place in places.items()
        if module.startswith(start)
    }
    return headless | places | {PEFT + module: place for module, place in places.items()}


def _inner(modules: Mapping[str, object]) -> str:
    """What the modules of the model inside the one with a head begin with, as `model.`."""
    starts = Counter(f"{module.partition('.')[0]}." for module in modules)
    return next((start for start, n in starts.items() if 2 * n > len(modules)), "")
