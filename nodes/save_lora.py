"""Save Transferred LoRA: a .safetensors file that every LoRA loader reads."""

from ..prolora.adapters import FILE_DTYPES, lora_state_dict
from ..prolora.errors import bullets
from ..prolora.naming.output_names import NAMINGS
from ..prolora.provenance.written import write_lora
from . import host
from .shared_inputs import LORA_FROM
from .transferred_lora import parts_of, renamed


class SaveTransferredLora:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("export LoRA", "save LoRA", "write LoRA", "convert LoRA", "LoRA file")
    DESCRIPTION = (
        "Saves a transferred LoRA into the output folder. The file keeps what the original says of "
        "itself, and names its own source and target."
    )
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "lora": ("LORA_MODEL", {"tooltip": LORA_FROM}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "loras/ProLoRA",
                        "tooltip": "Name of the file in the output folder; it may begin with a "
                        "subfolder. A number is added, so nothing is overwritten.",
                    },
                ),
                "dtype": (
                    list(FILE_DTYPES),
                    {"default": "fp16", "tooltip": "Precision of the file; fp16 is usual."},
                ),
            },
            "optional": {
                "naming": (
                    ["auto", *NAMINGS],
                    {
                        "default": "auto",
                        "tooltip": "How the file names its modules. auto: as most LoRAs for this "
                        "model do. comfyui, kohya: for ComfyUI and most tools. diffusers, peft: "
                        "for those libraries; ComfyUI may not load such a file.",
                    },
                ),
            },
        }

    def save(self, lora, filename_prefix, dtype, naming="auto"):
        parts = parts_of(lora, "Save it with ComfyUI's own Save LoRA node.")
        named = renamed(lora, parts, naming)
        tensors = lora_state_dict(named.adapters, FILE_DTYPES[dtype], named.style)
        header, target = getattr(lora, "metadata", {}), getattr(lora, "path", None)
        given = header, target, host.Progress()
        path = host.write_new(
            filename_prefix, lambda path: write_lora(tensors, path, *given, overwrite=False)
        )
        return {"ui": {"text": ["\n".join((host.saved_to(path), *bullets(named.notes)))]}}
