"""Two real diffusion models of terrain, published under MIT: LoRAs moved from one to the other."""

from .part import run
from .tables import report

__all__ = ["report", "run"]
