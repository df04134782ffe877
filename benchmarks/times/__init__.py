"""Times of docs/evidence.md: two models at once beside one, and training beside transferring.

SDXL and SD1.5 are diffusers' classes with the real configurations and random weights, at 1024 and
512 pixels, in bfloat16 (float16 on a GPU); what they take depends on shapes alone. Their operations
are counted on torch's meta device. On a CPU one thread runs, a second is one of CPU time, and the
pictures that are timed have half the sides.
"""

from .measure import run
from .tables import report

__all__ = ["report", "run"]
