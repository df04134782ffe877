"""The paper's tables in miniature: small models, trained for real, and every way to move a LoRA."""

from .part import report, run

__all__ = ["report", "run"]
