"""A LoRA for a MODEL of the graph in one go: taken from the cache, or loaded and moved."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..prolora import __version__
from ..prolora.adapters.peft_config import CONFIG_NAME, config_beside
from ..prolora.errors import ProLoRAError, bullets
from ..prolora.files.cache import CONTENT, KEY, Entry, FileCache
from ..prolora.files.digests import DigestMemory
from ..prolora.provenance.written import write_lora
from ..prolora.recording.file import read_recording
from ..prolora.transfer.modes import CALIBRATED
from ..prolora.transfer.resolve import resolve
from ..prolora.transfer.settings import TransferSettings
from . import host
from .files_seen import SEEN
from .loading_inputs import BESIDE, source_path
from .moving import Move, misfit, move_all, named
from .source_model import AUTO, loaded_model
from .transferred_lora import TransferredLora

# Of what is kept. With another one, nothing that was kept before is used any more.
FORMAT = 3
# Where an entry of the cache has what the node said, and how the files were called then.
_SUMMARY, _WARNING, _NAMES = "prolora_summary", "prolora_warning", "prolora_names"
_OF_THE_CACHE = (KEY, CONTENT, _SUMMARY, _WARNING, _NAMES)


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
class Files:
    """What a LoRA is moved by.

    Attributes:
        recording: beside the LoRA, if it is to be used.
        source: None where the recording stands for it.
        doubts: about the choice of the source.
    """

    lora: Path
    recording: Path | None
    source: Path | None = None
    doubts: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Wanted:
    """A LoRA to load.

    Attributes:
        label: what errors begin with; see named.
        key: under which it is kept; "" where it is not.
        notes: why not, or why what is there is not used.
    """

    label: str
    files: Files
    key: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loader:
    """Loads LoRAs of one source for one MODEL and CLIP.

    Attributes:
        model, clip: the host's; clip may be None.
        source_checkpoint: a choice of source_input.
        cache_gb: how much is kept in files; 0 for nothing.
        kept: the host.kept() that the node holds.
        unique_id, prompt: of the node; see loaded_model.
    """

    model: Any
    clip: Any
    source_checkpoint: str
    settings: TransferSettings
    cache_gb: int
    kept: Any
    unique_id: str
    prompt: Any

    def load(self, names: Sequence[str]) -> list[Loaded]:
        """LoRAs for the MODEL: from the cache what is there; the others are moved and kept.

        Raises:
            ProLoRAError: one cannot be moved. Of several, it begins with the name of that one.
        """
        found: dict[str, Loaded] = {}
        wanted: dict[str, _Wanted] = {}
        for name in names:
            label = name if len(names) > 1 else ""
            with named(label):
                wanted[name], cached = self._looked_up(label, host.lora_path(name))
            if cached is not None:
                found[name] = cached
        missing = {name: one for name, one in wanted.items() if name not in found}
        for name, moved in self._moved(missing).items():
            in_use = [loaded.path for loaded in found.values() if loaded.path is not None]
            found[name] = self._kept(moved, wanted[name], in_use)
        return [found[name].told(*map(str, wanted[name].files.doubts)) for name in names]

    def _looked_up(self, label: str, path: Path) -> tuple[_Wanted, Loaded | None]:
        """A LoRA, and what the cache has of it."""
        files = self._files_of(path)
        if not self.cache_gb:
            return _Wanted(label, files), None
        try:
            key = self._key(files)
        except host.Untold as untold:
            line = f"not kept: it hangs on a {untold} in the MODEL, which cannot be told apart"
            return _Wanted(label, files, notes=(line,)), None
        try:
            entry = self._cache.find(key)
        except ProLoRAError as error:
            line = f"moved again, because in the cache {error}"
            return _Wanted(label, files, key, (line,)), None
        return _Wanted(label, files, key), None if entry is None else self._taken(entry, files)

    def _taken(self, entry: Entry, files: Files) -> Loaded:
        summary, warning = (entry.metadata.get(name, "") for name in (_SUMMARY, _WARNING))
        found = Loaded(_as_lora(entry), summary, warning, entry.path)
        names = self._names_of(files)
        if entry.metadata.get(_NAMES) != names:
            found = found.told(f"moved when the files had other names: now {names}")
        return found.told(f"taken from the cache: {entry.path.name}")

    @property
    def _listens(self) -> bool:
        """Whether a recording is used where there is one."""
        return self.settings.settled(recorded=True).mode == CALIBRATED

    def _files_of(self, lora: Path) -> Files:
        beside = lora.with_name(CONFIG_NAME), host.recording_for(lora)
        SEEN.note(self.unique_id, [lora, *beside])
        files = self._chosen(lora)
        if files.source is not None:
            SEEN.note(self.unique_id, [files.source])
        return files

    def _chosen(self, lora: Path) -> Files:
        recording = host.recording_beside(lora)
        if self.source_checkpoint == BESIDE:
            if recording is None:
                raise ProLoRAError(
                    f"There is no {host.recording_for(lora).name} beside {lora.name}. Put it "
                    "there, or choose the checkpoint that the LoRA was trained on as "
                    "source_checkpoint."
                )
            return Files(lora, recording)
        if not self._listens:
            recording = None
        try:
            source, doubts = source_path(lora, self.source_checkpoint)
        except ProLoRAError:
            if recording is None or self.source_checkpoint != AUTO:
                raise
            return Files(lora, recording)
        return Files(lora, recording, source, doubts)

    def _moved(self, wanted: Mapping[str, _Wanted]) -> dict[str, Loaded]:
        """Each moved; those without a recording together, where they have one source."""
        moves = [self._move(one) for one in wanted.values()]
        moved = move_all(moves, self.kept)
        loaded = (Loaded(one.lora, one.summary, one.warning) for one in moved)
        return dict(zip(wanted, loaded, strict=True))

    def _move(self, one: _Wanted) -> Move:
        files, recording, notes = one.files, None, ()
        with named(one.label):
            file = host.read_lora(files.lora)
            if files.recording is not None:
                recording, notes = self._read(files, file)
            source = recording.source if files.source is None else self._source(files.source)
            if not self._listens:
                recording, notes = None, ()
            lora = resolve(file, source, host.Progress())
        job = lora, self._target, self.model, self.clip, self.settings
        return Move(*job, recording, notes, one.label)

    def _read(self, files: Files, file):
        """The recording and what to say of it; None for one that does not fit.

        Raises:
            ProLoRAError: it does not fit, and nothing else will do.
        """
        path = files.recording
        try:
            recording = read_recording(path)
            problem = misfit(recording, file, self._target, self.model)
        except ProLoRAError as error:
            problem = str(error)
        if not problem:
            return recording, (f"by the recording beside it, {path.name}",)
        if files.source is None or self.settings.mode == CALIBRATED:
            raise ProLoRAError(f"{path.name}, beside the LoRA, cannot be used: {problem}")
        return None, (f"{path.name}, beside the LoRA, was not used: {problem}",)

    def _kept(self, moved: Loaded, one: _Wanted, in_use: Collection[Path]) -> Loaded:
        """The same in the cache, where it is to be kept.

        Args:
            in_use: what of the cache has to stay.
        """
        moved = moved.told(*one.notes)
        if not one.key:
            return moved
        name = f"{one.files.lora.stem} for {Path(self._target.name).stem}"
        names = self._names_of(one.files)
        said = {_SUMMARY: moved.summary, _WARNING: moved.warning, _NAMES: names}
        header = {**moved.lora.metadata, **said}
        write = partial(write_lora, base=self._target.path, progress=host.Progress())
        try:
            path = self._cache.keep(one.key, name, moved.lora, header, in_use, write)
        except ProLoRAError as error:
            return moved.told(f"not kept: {error}")
        return replace(moved, path=path).told(f"kept in the cache: {path.name}")

    def _names_of(self, files: Files) -> str:
        """What the files are called, for people."""
        source = files.source or files.recording
        return f"{files.lora.name}, from {source and source.name} to {self._target.name}"

    def _key(self, files: Files) -> str:
        """A digest of all that the result hangs on, by content.

        Raises:
            host.Untold: something of it has no content that can be compared.
        """
        recorded = files.recording is not None
        # With a recording, auto may come to another mode than calibrated: see _read.
        settings = asdict(self.settings if recorded else self.settings.settled(recorded=False))
        for machine in ("device", "dtype", "workers", "memory"):
            del settings[machine]
        paths = {"lora": files.lora, "config": config_beside(files.lora)}
        paths |= {"recording": files.recording, "source": files.source}
        digests = {name: self._digest(path) for name, path in paths.items() if path is not None}
        rest = {
            "made by": [__version__, FORMAT],
            "target": self._fingerprint,
            "conduct": host.conduct(self.model, self.clip) if recorded else "",
            "settings": settings,
        }
        return sha256(json.dumps(digests | rest, sort_keys=True).encode()).hexdigest()

    def _digest(self, path: Path) -> str:
        return self._digests.of(path, host.Progress())

    @cached_property
    def _cache(self) -> FileCache:
        return FileCache(host.cache_folder(), self.cache_gb * 10**9)

    @cached_property
    def _digests(self) -> DigestMemory:
        return DigestMemory(host.cache_folder() / "digests.json")

    @cached_property
    def _target(self):
        return loaded_model(self.model, self.clip, self.unique_id, self.prompt)

    @cached_property
    def _fingerprint(self) -> str:
        return host.fingerprint(self._target, self.model, self.clip, host.Progress())

    @cached_property
    def _sources(self) -> dict[Path, Any]:
        return {}

    def _source(self, path: Path):
        if path not in self._sources:
            self._sources[path] = host.model_from_file(path)
        return self._sources[path]


def _as_lora(entry: Entry) -> TransferredLora:
    lora = TransferredLora(entry.tensors)
    lora.metadata = {k: v for k, v in entry.metadata.items() if k not in _OF_THE_CACHE}
    return lora
