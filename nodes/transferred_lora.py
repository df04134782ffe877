"""The LORA_MODEL that ProLoRA Transfer makes and the nodes after it take."""

from collections.abc import Mapping
from pathlib import Path

from ..prolora.adapters import lora_state_dict, parse_adapter_file
from ..prolora.errors import ProLoRAError, bullets
from ..prolora.models.references import WeightRef
from ..prolora.naming.output_names import rename
from ..prolora.transfer.report import Report


class TransferredLora(dict):
    """A LORA_MODEL (the host's type, a state dict) that also holds what a file of it needs.

    Attributes:
        metadata: the header of the file.
        key_map, architecture: of the target model, to rename the modules.
        path: of the target's file, for its hashes; None where it is not known.
        report: of the transfer; None where none is known.
    """

    metadata: Mapping[str, str]
    key_map: Mapping[str, WeightRef]
    architecture: str
    path: Path | None
    report: Report | None

    @classmethod
    def of(cls, adapters, style, metadata, target, report=None):
        """Of adapters; `target` is a Model, or another of these for the same model."""
        lora = cls(lora_state_dict(adapters, style=style))
        lora.metadata, lora.report = metadata, report
        lora.key_map, lora.architecture = target.key_map, target.architecture
        lora.path = target.path
        return lora


def lora_of(result, model, summary):
    """The LORA_MODEL of a job's result for a model, and the summary with what its names need.

    Args:
        result: a TransferResult or an Extraction.
        model: the core's Model that the LoRA is for.
    """
    named = rename(result.contents, model.key_map, model.architecture)
    lora = TransferredLora.of(named.adapters, named.style, result.metadata(), model, result.report)
    return lora, "\n".join((summary, *bullets(named.notes)))


def parts_of(lora, otherwise: str):
    """What a LORA_MODEL holds, to be written again.

    Args:
        otherwise: what to do with one that holds more, for the message.

    Raises:
        ProLoRAError: it is empty, or holds more than ProLoRA writes.
    """
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
            f"{otherwise}"
        )
    return file.contents


def renamed(lora, parts, naming):
    """The parts of a LORA_MODEL under the names of a naming; see output_names.rename.

    Raises:
        ProLoRAError: it comes from another node, and its names are to be changed.
    """
    if isinstance(lora, TransferredLora):
        return rename(parts, lora.key_map, lora.architecture, naming)
    if naming != "auto":
        raise ProLoRAError(
            f"This LORA_MODEL does not come from ProLoRA Transfer, so the weights that its names "
            f"mean are not known, and they cannot be changed to {naming}. Choose auto, which keeps "
            "the names."
        )
    return rename(parts, {}, "", "source")
