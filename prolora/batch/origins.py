"""What a row's file is made from, in its header: by it a row is known to be done."""

import json
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

from ..adapters.peft_config import config_beside
from ..adapters.peft_folder import weights_in
from ..errors import ProLoRAError
from ..files.digests import DigestMemory
from ..files.safetensors import open_safetensors
from ..progress import Progress, silent
from .manifest import Row

MARK = "prolora_made_from"  # where a file that a batch has written has the key of its row
_FORMAT = 1  # of the key; with another, nothing that was written before is known to be done
_OF_A_FOLDER = (".safetensors", ".json")  # what a checkpoint in a folder consists of


class Origins:
    """Knows files by their content, which it reads once.

    Args:
        memory: of the digests.
        progress: told of what is read.
    """

    def __init__(self, memory: DigestMemory, progress: Progress = silent) -> None:
        self._memory, self._progress = memory, progress

    def together(self) -> AbstractContextManager[None]:
        """See DigestMemory.together."""
        return self._memory.together()

    def key(self, row: Row) -> str:
        """A digest of all that a row's file hangs on: LoRA, checkpoints and choices, not names.

        Raises:
            ProLoRAError: one of them cannot be read.
            Exception: whatever the progress raises.
        """
        choices = row.choices
        files = {"lora": row.lora, "config": config_beside(row.lora), "pairs": choices.pairs}
        settings = choices.settings().settled(recorded=False)
        made_from = {
            "format": _FORMAT,
            **{name: self._digest(path) for name, path in files.items() if path is not None},
            "source": self._digest(row.source),
            "target": self._digest(row.target),
            "choices": [
                *(settings.mode, settings.threshold, settings.subspace_energy),
                *(settings.rank, settings.unserved, choices.naming, choices.dtype),
            ],
        }
        return sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()

    def is_done(self, row: Row) -> bool:
        """Whether the row's file is there, and was made from what the row names.

        Raises:
            ProLoRAError: one of those cannot be read.
            Exception: whatever the progress raises.
        """
        mark = header_of(row.out).get(MARK)
        return mark is not None and mark == self.key(row)

    def _digest(self, path: Path) -> str:
        if not path.is_dir():
            return self._memory.of(path, self._progress)
        files = sorted(p for p in path.rglob("*") if p.suffix in _OF_A_FOLDER and p.is_file())
        each = [f"{file.relative_to(path)} {self._digest(file)}" for file in files]
        return sha256("\n".join(each).encode()).hexdigest()


def header_of(path: Path) -> dict[str, str]:
    """What a written file says of itself; nothing where there is none, or another's."""
    try:
        return open_safetensors(weights_in(path)).metadata() or {}
    except ProLoRAError:
        return {}
