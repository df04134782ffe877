"""A language model, fine-tuned to a second one, and LoRAs of a task that move between the two.

The weights are real: SmolLM2-135M-Instruct, from a Python package (checkpoint.py). All else is made
here, of text that comes with Python (text.py).
"""

from .part import run
from .report import report

__all__ = ["report", "run"]
