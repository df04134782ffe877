"""The nodes, one file each, and their names for the host."""

from .apply_lora import ApplyTransferredLora
from .load_source_lora import LoadSourceLora
from .save_lora import SaveTransferredLora
from .similarity import ProLoraSimilarity
from .transfer_lora import ProLoraTransfer

NODE_CLASS_MAPPINGS = {
    "ProLoRALoadSource": LoadSourceLora,
    "ProLoRATransfer": ProLoraTransfer,
    "ProLoRAApply": ApplyTransferredLora,
    "ProLoRASave": SaveTransferredLora,
    "ProLoRASimilarity": ProLoraSimilarity,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "ProLoRALoadSource": "Load Source LoRA",
    "ProLoRATransfer": "ProLoRA Transfer",
    "ProLoRAApply": "Apply Transferred LoRA",
    "ProLoRASave": "Save Transferred LoRA",
    "ProLoRASimilarity": "ProLoRA Similarity",
}
