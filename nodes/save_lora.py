"""Save Transferred LoRA: a .safetensors file that every LoRA loader reads."""

from ..prolora.adapters import FILE_DTYPES, lora_state_dict, parse_adapter_file
from ..prolora.errors import ProLoRAError
from ..prolora.files.safetensors import write_safetensors
from ..prolora.naming.output_names import NAMINGS, rename
from . import host
from .transfer_lora import TransferredLora


class SaveTransferredLora:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = "Saves a transferred LoRA into the output folder, with its source and target."
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
        named = self.renamed(lora, file, naming)
        tensors = lora_state_dict(named.adapters, FILE_DTYPES[dtype], named.style)
        path = host.output_path(filename_prefix)
        write_safetensors(tensors, path, getattr(lora, "metadata", {}))
        return {"ui": {"text": ["\n".join((f"saved {path.name}", *named.notes))]}}

    @staticmethod
    def renamed(lora, file, naming):
        if isinstance(lora, TransferredLora):
            return rename(file.contents, lora.key_map, lora.architecture, naming)
        if naming != "auto":
            raise ProLoRAError(
                f"This LORA_MODEL does not come from ProLoRA Transfer, so the weights that its "
                f"names mean are not known, and they cannot be changed to {naming}. Choose auto, "
                "which keeps the names."
            )
        return rename(file.contents, {}, "", "source")
