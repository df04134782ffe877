"""Load Source LoRA: a LoRA file and the checkpoint that it was trained on."""

from ..prolora.inspection import describe_source
from ..prolora.transfer.resolve import resolve
from . import host
from .source_model import SOURCE_INPUTS, checkpoint_input, chosen_source


class LoadSourceLora:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = "Reads a LoRA and the checkpoint that it was trained on, for ProLoRA Transfer."
    RETURN_TYPES = ("PROLORA_SOURCE", "STRING")
    RETURN_NAMES = ("source_lora", "info")
    OUTPUT_TOOLTIPS = (
        "Connect to ProLoRA Transfer.",
        "Architecture, family, rank, how many modules the source has, and which it does not have.",
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
                "source_checkpoint": checkpoint_input(
                    "The checkpoint or diffusion model the LoRA was trained on. It is not loaded: "
                    "its weights are read one at a time. (the connected source_model) also stands "
                    "for a connected recording."
                ),
            },
            "optional": {
                **SOURCE_INPUTS,
                "recording": (
                    "PROLORA_RECORDING",
                    {
                        "tooltip": "A recording of this LoRA stands for its checkpoint, which is "
                        "not needed any more: choose (the connected source_model) above."
                    },
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
        recording=None,
        unique_id="",
        prompt=None,
    ):
        file = host.read_lora(host.lora_path(lora_name))
        model = chosen_source(
            source_checkpoint, source_model, source_clip, unique_id, prompt, recording
        )
        if recording is not None:
            recording.check_lora(file.digest, file.name)
        lora = resolve(file, model)
        info = describe_source(lora)
        host.say(info)
        return {"ui": {"text": [info]}, "result": (lora, info)}
