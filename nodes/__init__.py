"""The nodes, one file each, and their names for the host."""

from . import host
from .apply_lora import ApplyTransferredLora
from .checked import check_inputs
from .encode_prompts import EncodePrompts
from .extract_difference import ExtractDifference
from .load_for_model import LoadLoraForModel
from .load_recording import LoadRecording
from .load_source_lora import LoadSourceLora
from .load_stack import LoadLoraStackForModel
from .preview_text import PreviewText
from .record_lora import RecordSourceLora
from .refine_lora import RefineTransferredLora
from .save_lora import SaveTransferredLora
from .save_recording import SaveRecording
from .similarity import ProLoraSimilarity
from .transfer_lora import ProLoraTransfer
from .transfer_report import TransferReport

NODE_CLASS_MAPPINGS = {
    "ProLoRALoadForModel": LoadLoraForModel,
    "ProLoRAStack": LoadLoraStackForModel,
    "ProLoRALoadSource": LoadSourceLora,
    "ProLoRATransfer": ProLoraTransfer,
    "ProLoRAApply": ApplyTransferredLora,
    "ProLoRASave": SaveTransferredLora,
    "ProLoRASimilarity": ProLoraSimilarity,
    "ProLoRAPrompts": EncodePrompts,
    "ProLoRARecord": RecordSourceLora,
    "ProLoRASaveRecording": SaveRecording,
    "ProLoRALoadRecording": LoadRecording,
    "ProLoRARefine": RefineTransferredLora,
    "ProLoRAExtract": ExtractDifference,
    "PreviewAny": PreviewText,
    "ProLoRAReport": TransferReport,
}

NODE_DISPLAY_NAME_MAPPINGS = {
    "ProLoRALoadForModel": "Load LoRA for Model",
    "ProLoRAStack": "Load LoRA Stack for Model",
    "ProLoRALoadSource": "Load Source LoRA",
    "ProLoRATransfer": "ProLoRA Transfer",
    "ProLoRAApply": "Apply Transferred LoRA",
    "ProLoRASave": "Save Transferred LoRA",
    "ProLoRASimilarity": "ProLoRA Similarity",
    "ProLoRAPrompts": "Encode Prompts",
    "ProLoRARecord": "Record Source LoRA",
    "ProLoRASaveRecording": "Save Recording",
    "ProLoRALoadRecording": "Load Recording",
    "ProLoRARefine": "Refine Transferred LoRA",
    "ProLoRAExtract": "Extract Difference as LoRA",
    "ProLoRAReport": "Transfer Report",
}

for _node in NODE_CLASS_MAPPINGS.values():
    setattr(_node, _node.FUNCTION, host.guarded(getattr(_node, _node.FUNCTION)))
    check_inputs(_node)
    # A host of 2026 then shows again what a node said, where its result comes from the cache.
    _node.HAS_INTERMEDIATE_OUTPUT = True
