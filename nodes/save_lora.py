"""Save Transferred LoRA: a .safetensors file that every LoRA loader reads."""

from ..prolora.adapters import FILE_DTYPES, lora_state_dict, parse_adapter_file
from ..prolora.errors import ProLoRAError
from ..prolora.files import write_safetensors
from . import host


class SaveTransferredLora:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = "Saves a transferred LoRA into the output folder, with where it comes from."
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "lora": ("LORA_MODEL", {"tooltip": "From ProLoRA Transfer."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "loras/ProLoRA",
                        "tooltip": "Name of the file in the output folder; may begin with a "
                        "subfolder. A number is added, so nothing is overwritten.",
                    },
                ),
                "dtype": (
                    list(FILE_DTYPES),
                    {"default": "fp16", "tooltip": "Precision of the file; fp16 is usual."},
                ),
            },
        }

    def save(self, lora, filename_prefix, dtype):
        if not lora:
            raise ProLoRAError(
                "The LoRA is empty, so there is nothing to save: no module passed the threshold. "
                "The summary of ProLoRA Transfer says more."
            )
        file = parse_adapter_file(lora, "the LORA_MODEL")
        if file.left_out or file.unknown:
            lost = ", ".join((*file.left_out.values(), *file.unknown))
            raise ProLoRAError(
                f"This LORA_MODEL holds more than ProLoRA writes ({lost}), which would be lost. "
                "Save it with ComfyUI's own Save LoRA node."
            )
        tensors = lora_state_dict(file.adapters, FILE_DTYPES[dtype])
        path = host.output_path(filename_prefix)
        write_safetensors(tensors, path, getattr(lora, "metadata", {}))
        return {"ui": {"text": [f"saved {path.name}"]}}
