"""What a LoRA file is, and how it fits the checkpoint it was trained on, in a few lines."""

from collections import Counter
from collections.abc import Iterator

from .adapters import AdapterFile, accelerators
from .errors import bullets, one_line, truncated_list
from .models.architectures import guess_architecture
from .provenance.header import describe_header
from .transfer.resolve import ResolvedLora

_LISTED = 8  # how many unmatched keys are named before the rest is counted


def describe_adapter(file: AdapterFile) -> str:
    """Family, architecture, modules, ranks, what its header says, and what cannot be moved."""
    head, *rest = _adapter_lines(file)
    return "\n".join((head, *bullets(rest)))


def describe_source(lora: ResolvedLora) -> str:
    """Warnings, how many of the LoRA's modules the source checkpoint has, then the same."""
    file, source, missing = lora.file, lora.source, lora.unresolved
    count = len(file.module_names)
    warnings = [str(doubt) for doubt in lora.doubts if doubt.is_warning]
    if warnings:
        warnings.append("")
    match = f"{count - len(missing)} of {count} modules match"
    lines = (
        *(f"not in the source: {one_line(name)}" for name in truncated_list(missing, _LISTED)),
        *(str(doubt) for doubt in lora.doubts if not doubt.is_warning),
        *_adapter_lines(file),
    )
    verdict = f"{match} the source {source.name} ({source.architecture})"
    return "\n".join((*warnings, verdict, *bullets(lines)))


def _adapter_lines(file: AdapterFile) -> Iterator[str]:
    architecture = guess_architecture(file.module_names)
    nothing = "differences only" if file.vector_patches else "nothing that can be moved"
    families = ", ".join(file.families) or nothing
    yield f"{file.name}: {families}, its names are those of {architecture}"
    if file.tool:
        yield f"written by {file.tool}, it seems"
    yield from describe_header(file.metadata, file.config)
    if file.accelerator:
        yield accelerators.describe(file.accelerator)
    if file.adapters:
        ranks = Counter(str(adapter.rank or "none of its own") for adapter in file.adapters)
        yield f"{len(file.adapters)} modules, rank {_counted(ranks)}"
    for kind, count in Counter(part.kind for part in file.vector_patches).items():
        yield f"{count} of kind {kind}: carried over as they are, where the shapes agree"
    for reason, count in Counter(file.left_out.values()).items():
        yield f"{count} modules are left out: {reason}"
    for key in truncated_list(file.unknown, _LISTED):
        yield f"unknown key: {one_line(key)}"
    yield from file.notes


def _counted(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.most_common())
