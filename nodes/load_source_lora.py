"""Load Source LoRA: a LoRA file and the checkpoint that it was trained on."""

from dataclasses import replace

from ..prolora.adapters.peft_config import CONFIG_NAME
from ..prolora.inspection import describe_source
from ..prolora.transfer.resolve import resolve
from . import host
from .files_seen import SEEN, ReadsFiles
from .source_model import AUTO, SOURCE_INPUTS, checkpoint_input, chosen_source, named_by


class LoadSourceLora(ReadsFiles):
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "source LoRA",
        "read LoRA",
        "port LoRA",
        "move LoRA",
        "base model",
        "trigger words",
    )
    DESCRIPTION = "Reads a LoRA and the checkpoint that it was trained on, for ProLoRA Transfer."
    RETURN_TYPES = ("PROLORA_SOURCE", "STRING")
    RETURN_NAMES = ("source_lora", "info")
    OUTPUT_TOOLTIPS = (
        "Connect to ProLoRA Transfer or Record Source LoRA.",
        "How many of the LoRA's modules the source has, what speaks against the source, and what "
        "the file says of itself.",
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
                    "The checkpoint or diffusion model that the LoRA was trained on. It is not "
                    "loaded: its weights are read one at a time. auto takes the file that the "
                    "LoRA's own header names. (the connected source_model) also stands for a "
                    "connected recording.",
                    AUTO,
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
        path = host.lora_path(lora_name)
        SEEN.note(unique_id, [path, path.with_name(CONFIG_NAME)])
        file = host.read_lora(path)
        guess = ()
        if source_checkpoint == AUTO and source_model is None and recording is None:
            source_checkpoint, guess = named_by(file)
        model = chosen_source(
            source_checkpoint, source_model, source_clip, unique_id, prompt, recording
        )
        if recording is not None:
            recording.check_lora(file.digest, file.name)
        lora = resolve(file, model, host.Progress())
        lora = replace(lora, doubts=(*guess, *lora.doubts))
        info = describe_source(lora)
        info = host.say(info, any(doubt.is_warning for doubt in lora.doubts))
        return {"ui": {"text": [info]}, "result": (lora, info)}
