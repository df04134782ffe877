"""Load Source LoRA: a LoRA file, and the checkpoint that it was trained on."""

from dataclasses import dataclass

from ..prolora.adapters import AdapterFile
from ..prolora.errors import ProLoRAError
from ..prolora.inspection import describe_source
from ..prolora.matching import check_belongs
from ..prolora.weights import Model
from . import host

FROM_INPUT = "(the connected source_model)"


@dataclass(frozen=True)
class SourceLora:
    """What travels along the PROLORA_SOURCE link."""

    file: AdapterFile
    model: Model


class LoadSourceLora:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = "A LoRA together with the checkpoint it was trained on, to be moved to another."
    RETURN_TYPES = ("PROLORA_SOURCE", "STRING")
    RETURN_NAMES = ("source_lora", "info")
    OUTPUT_TOOLTIPS = (
        "Connect to ProLoRA Transfer.",
        "Architecture, family, rank, how many modules matched and which keys did not.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "lora_name": (
                    host.lora_names(),
                    {"tooltip": "The LoRA to move, from the loras folder."},
                ),
                "source_checkpoint": (
                    [*host.model_names(), FROM_INPUT],
                    {
                        "tooltip": "The checkpoint or diffusion model the LoRA was trained on. It "
                        "is not loaded: its weights are read one at a time."
                    },
                ),
            },
            "optional": {
                "source_model": (
                    "MODEL",
                    {"tooltip": "Used instead of source_checkpoint when it is connected."},
                ),
                "source_clip": (
                    "CLIP",
                    {"tooltip": "The text encoder that belongs to source_model."},
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def load(
        self,
        lora_name,
        source_checkpoint,
        source_model=None,
        source_clip=None,
        unique_id="",
        prompt=None,
    ):
        if source_clip is not None and source_model is None:
            raise ProLoRAError(
                "source_clip is connected without a source_model. Connect both, or neither: a "
                "source_checkpoint brings its own text encoder."
            )
        file = host.read_lora(host.lora_path(lora_name))
        if source_model is not None:
            name = host.file_behind(prompt or {}, unique_id, "source_model") or "the source MODEL"
            model = host.model_from_graph(source_model, source_clip, name)
        elif source_checkpoint != FROM_INPUT:
            model = host.model_from_file(host.model_path(source_checkpoint))
        else:
            raise ProLoRAError(
                "No source: connect a MODEL to source_model, or choose a source_checkpoint."
            )
        check_belongs(file, model)
        info = describe_source(file, model)
        host.show(info, unique_id)
        return {"ui": {"text": [info]}, "result": (SourceLora(file, model), info)}
