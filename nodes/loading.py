"""A LoRA for a MODEL of the graph in one go: taken from the cache, or loaded and moved."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..prolora import __version__
from ..prolora.adapters.peft_config import config_beside
from ..prolora.errors import ProLoRAError, bullets
from ..prolora.files.cache import Entry, FileCache
from ..prolora.files.digests import DigestMemory
from ..prolora.recording.file import read_recording
from ..prolora.transfer.modes import CALIBRATED
from ..prolora.transfer.resolve import resolve
from ..prolora.transfer.settings import TransferSettings
from . import host
from .loading_inputs import BESIDE
from .moving import misfit, move, target_of
from .source_model import chosen_source

# Of what is kept. With another one, nothing that was kept before is used any more.
FORMAT = 1
# Where an entry of the cache has what the node said.
_SUMMARY, _WARNING = "prolora_summary", "prolora_warning"


@dataclass(frozen=True)
class Loaded:
    """A LoRA for the MODEL.

    Attributes:
        lora: a LORA_MODEL.
        summary, warning: see Moved.
        path: in the cache; None where it is not kept.
    """

    lora: Mapping[str, Any]
    summary: str
    warning: str
    path: Path | None = None

    def told(self, *lines: str) -> "Loaded":
        """The same with more lines in its summary."""
        return replace(self, summary="\n".join((self.summary, *bullets(lines))))


@dataclass(frozen=True)
class Loader:
    """Loads LoRAs of one source for one MODEL and CLIP.

    Attributes:
        model, clip: the host's; clip may be None.
        source_checkpoint: a choice of source_input.
        cache_gb: how much is kept in files; 0 for nothing.
        kept: the host.kept() that the node holds.
        unique_id, prompt: of the node; see host.file_behind.
    """

    model: Any
    clip: Any
    source_checkpoint: str
    settings: TransferSettings
    cache_gb: int
    kept: Any
    unique_id: str
    prompt: Any

    def load(self, lora_name: str, in_use: Collection[Path] = ()) -> Loaded:
        """The LoRA for the MODEL: from the cache if it is there, else moved and kept.

        Args:
            in_use: what of the cache has to stay.

        Raises:
            ProLoRAError: it cannot be moved.
        """
        path = host.lora_path(lora_name)
        recording = self._recording_of(path)
        if not self.cache_gb:
            return self._moved(path, recording)
        try:
            key = self._key(path, recording)
        except host.Untold as untold:
            line = f"not kept: it hangs on a {untold} in the MODEL, which cannot be told apart"
            return self._moved(path, recording).told(line)
        entry, problem = self._found(key)
        if entry is not None:
            told = (entry.metadata.get(name, "") for name in (_SUMMARY, _WARNING))
            found = Loaded(entry.tensors, *told, entry.path)
            return found.told(f"taken from the cache: {entry.path.name}")
        moved = self._moved(path, recording).told(*problem)
        return self._kept(moved, key, f"{path.stem} for {Path(self._target.name).stem}", in_use)

    @property
    def _listens(self) -> bool:
        """Whether a recording is used where there is one."""
        return self.settings.settled(recorded=True).mode == CALIBRATED

    @property
    def _is_recorded(self) -> bool:
        """Whether the recording stands for the source."""
        return self.source_checkpoint == BESIDE

    def _recording_of(self, lora: Path) -> Path | None:
        """The recording beside a LoRA, if it is to be used."""
        found = host.recording_beside(lora)
        if found is None and self._is_recorded:
            raise ProLoRAError(
                f"There is no {lora.stem}.recording.safetensors beside {lora.name}. Put it there, "
                "or choose the checkpoint that the LoRA was trained on as source_checkpoint."
            )
        return found if self._listens or self._is_recorded else None

    def _moved(self, path: Path, recording_path: Path | None) -> Loaded:
        file = host.read_lora(path)
        recording, notes = None, ()
        if recording_path is not None:
            recording, notes = self._read(recording_path, file)
        source = recording.source if self._is_recorded else self._source
        if not self._listens:
            recording, notes = None, ()
        job = resolve(file, source), self._target, self.model, self.clip, self.settings
        moved = move(*job, self.kept, recording, notes)
        return Loaded(moved.lora, moved.summary, moved.warning)

    def _read(self, path: Path, file):
        """The recording and what to say of it; None for one that does not fit.

        Raises:
            ProLoRAError: it does not fit, and nothing else will do.
        """
        try:
            recording = read_recording(path)
            problem = misfit(recording, file, self._target, self.model)
        except ProLoRAError as error:
            problem = str(error)
        if not problem:
            return recording, (f"by the recording beside it, {path.name}",)
        if self._is_recorded or self.settings.mode == CALIBRATED:
            raise ProLoRAError(f"{path.name}, beside the LoRA, cannot be used: {problem}")
        return None, (f"{path.name}, beside the LoRA, was not used: {problem}",)

    def _found(self, key: str) -> tuple[Entry | None, tuple[str, ...]]:
        """The entry of a key, and why one that is there is not used."""
        try:
            return self._cache.find(key), ()
        except ProLoRAError as error:
            return None, (f"moved again, because in the cache {error}",)

    def _kept(self, moved: Loaded, key: str, name: str, in_use: Collection[Path]) -> Loaded:
        told = {_SUMMARY: moved.summary, _WARNING: moved.warning}
        try:
            path = self._cache.keep(key, name, moved.lora, moved.lora.metadata | told, in_use)
        except ProLoRAError as error:
            return moved.told(f"not kept: {error}")
        return replace(moved, path=path).told(f"kept in the cache: {path.name}")

    def _key(self, lora: Path, recording: Path | None) -> str:
        """A digest of all that the result hangs on, by content.

        Raises:
            host.Untold: something of it has no content that can be compared.
        """
        # With a recording, auto may come to another mode than calibrated: see _read.
        settled = self.settings if recording is not None else self.settings.settled(recorded=False)
        settings = asdict(settled)
        del settings["device"], settings["dtype"]
        source = recording if self._is_recorded else host.model_path(self.source_checkpoint)
        files = {"lora": lora, "config": config_beside(lora), "recording": recording}
        files |= {"source": source}
        digests = {name: self._digest(path) for name, path in files.items() if path is not None}
        rest = {
            "made by": [__version__, FORMAT],
            "target": self._fingerprint,
            "conduct": "" if recording is None else host.conduct(self.model, self.clip),
            "settings": settings,
        }
        return sha256(json.dumps(digests | rest, sort_keys=True).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        return self._digests.of(path, host.stop_if_cancelled)

    @cached_property
    def _cache(self) -> FileCache:
        return FileCache(host.cache_folder(), self.cache_gb * 10**9)

    @cached_property
    def _digests(self) -> DigestMemory:
        return DigestMemory(host.cache_folder() / "digests.json")

    @cached_property
    def _target(self):
        return target_of(self.model, self.clip, self.unique_id, self.prompt)

    @cached_property
    def _fingerprint(self) -> str:
        return host.fingerprint(self._target, self.model, self.clip)

    @cached_property
    def _source(self):
        return chosen_source(self.source_checkpoint, None, None, self.unique_id, self.prompt)
