"""What a backend is given and what it gives, beside the tasks."""

from collections.abc import Callable, Generator

from ...pairing.module_pairs import ModulePair
from ..tasks import ModuleResult

# What the report has to say of the run, a line at a time.
Note = Callable[[str], None]
# Modules with their results, as they are done.
Moved = Generator[tuple[ModulePair, ModuleResult], None, None]
