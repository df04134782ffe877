"""The rows of docs/evidence.md that are no mode of ProLoRA, on its own types.

Each takes a resolved LoRA and a target, as transfer_resolved does, and gives what that gives: the
moved adapters with a report of every module.
"""

from .theseus import Running, denoising, theseus
from .weights import casa_of_nothing, orthogonal

__all__ = ["Running", "casa_of_nothing", "denoising", "orthogonal", "theseus"]
