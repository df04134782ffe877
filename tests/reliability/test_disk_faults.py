"""Disks that refuse, and names that are odd or too long, at every place where a file is written."""

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prolora.command_line import main
from prolora.files import atomic_write
from tests.core.judge_files import write_clip
from tests.core.judged_pictures import write_pictures
from tests.core.libraries_of_loras import write_library

from .children import begun
from .drives import fill, only_to_read, small_drive

NOBODY = 65534
OLD = "what was there before"


@pytest.fixture
def place_for_all() -> Iterator[Path]:
    """A folder that everybody may read, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def models(place_for_all) -> Path:
    """Where nobody may write, and everybody read."""
    folder = place_for_all / "models"
    folder.mkdir()
    write_library(folder, 2)
    write_pictures(folder / "pictures", 2)
    write_pictures(folder / "reference", 2, first=5)
    write_clip(folder / "clip")
    return folder


# What is written -> the words of the command line that write it to a path.
PLACES: dict[str, Callable[[str, Path], list[str]]] = {
    "a moved LoRA": lambda m, out: [
        *("transfer", f"{m}/style.safetensors", "--source", f"{m}/a.safetensors"),
        *("--target", f"{m}/b.safetensors", "--threshold", "0", "-o", f"{out}.safetensors"),
    ],
    "LoRAs in a folder": lambda m, out: [
        *("transfer", f"{m}/s0.safetensors", f"{m}/s1.safetensors", "--threshold", "0"),
        *("--source", f"{m}/a.safetensors", "--target", f"{m}/b.safetensors"),
        *("--out-dir", str(out.parent)),
    ],
    "a report": lambda m, out: [
        *("transfer", f"{m}/style.safetensors", "--source", f"{m}/a.safetensors"),
        *("--target", f"{m}/b.safetensors", "--threshold", "0"),
        *("-o", "/dev/shm/prolora_moved.safetensors", "--report", f"{out}.json"),
    ],
    "an extracted LoRA": lambda m, out: [
        *("extract", f"{m}/a.safetensors", f"{m}/b.safetensors", "-o", f"{out}.safetensors"),
    ],
    "a table of similarity": lambda m, out: [
        *("similarity", f"{m}/a.safetensors", f"{m}/b.safetensors", "--table", f"{out}.csv"),
    ],
    "pairs of blocks": lambda m, out: [
        *("similarity", f"{m}/a.safetensors", f"{m}/b.safetensors", "--write-pairs", f"{out}.json"),
    ],
    "a heat map": lambda m, out: [
        *("similarity", f"{m}/a.safetensors", f"{m}/b.safetensors", "--picture", f"{out}.png"),
    ],
    "a table of a batch": lambda m, out: [
        *("batch", "--loras", m, "--pattern", "s0.safetensors", "--source", f"{m}/a.safetensors"),
        *("--target", f"{m}/b.safetensors", "--out-dir", f"{out.parent}", "--threshold", "0"),
        *("--table", f"{out}.csv"),
    ],
    "figures of pictures": lambda m, out: [
        *("evaluate", f"{m}/pictures", "--reference", f"{m}/reference", "--clip", f"{m}/clip"),
        *("--json", f"{out}.json"),
    ],
    "a plot of pictures": lambda m, out: [
        *("evaluate", f"{m}/pictures", "--reference", f"{m}/reference", "--clip", f"{m}/clip"),
        *("-o", f"{out}.png"),
    ],
}


def ended(words: list[str], before: Callable[[], object], said: Path) -> tuple[int, str]:
    """How a command ends in a process of its own, and what it says last."""
    said.touch()
    said.chmod(0o666)

    def job() -> None:
        log = os.open(said, os.O_WRONLY | os.O_TRUNC)
        sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1, encoding="utf-8")
        before()
        os._exit(main(words))

    pid = begun(job).pid
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), status
    lines = [line for line in said.read_text().splitlines() if line.startswith("error: ")]
    return os.WEXITSTATUS(status), lines[-1] if lines else said.read_text()


def broken_disk() -> None:
    """The disk says so when the last of a file is to be on it."""

    def fsync(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    atomic_write.os.fsync = fsync  # type: ignore[assignment]


def nothing() -> None:
    """The parent has done it."""


# What is wrong -> what the parent does to the drive, what the child does before it begins, and
# what must be said.
FAULTS: dict[str, tuple[Callable[[Path], object], Callable[[], object], tuple[str, ...]]] = {
    "a full drive": (fill, nothing, ("No space left on device", "Make room on that disk")),
    "a drive that is only to be read": (
        only_to_read,
        nothing,
        ("Read-only file system", "Choose a folder that"),
    ),
    "a folder that may not be written to": (
        lambda drive: drive.chmod(0o555),
        lambda: os.setuid(NOBODY),
        ("Permission denied", "Choose a folder that"),
    ),
    "a disk that reports an error": (
        lambda drive: None,
        broken_disk,
        ("Input/output error", "The disk itself reports it"),
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "filler"
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_every_place_on_a_drive_that_refuses(tell, place_for_all, models, fault):
    arrange, before, words = FAULTS[fault]
    said = []
    for place, words_of in PLACES.items():
        with small_drive(place_for_all / place) as drive:
            out = drive / "out" / "result"
            out.parent.mkdir(mode=0o777)
            for ending in (".safetensors", ".json", ".csv", ".png"):
                out.with_suffix(ending).write_text(OLD)
            # A table of results that is none of ours is not overwritten, whatever the disk does.
            out.with_suffix(".csv").unlink()
            there = contents(drive)
            arrange(drive)
            arrange(drive / "out") if fault == "a folder that may not be written to" else None
            command = [*words_of(str(models), out), "--force"]
            code, sentence = ended(command, before, place_for_all / "said.txt")
            assert code == 1, (place, sentence)
            said.append(sentence)
            if place != "LoRAs in a folder":  # of which each has its own sentence, above
                assert all(word in sentence for word in words), (place, sentence)
            assert "Traceback" not in (place_for_all / "said.txt").read_text()
            assert all(word in (place_for_all / "said.txt").read_text() for word in words[:1]), (
                place
            )
            assert contents(drive) == there, place
    tell(
        "faults",
        f"{fault}: every place where the command line writes",
        len(PLACES),
        f"{len(said)} sentences that say what to do; every older file as it was, nothing left",
    )


LONG = "ü 😀 é ñ 漢字 " * 12


def test_names_that_are_odd_long_or_too_long(tell, tmp_path, models):
    folder = tmp_path / LONG[:60].strip() / LONG[:50].strip() / LONG[:70].strip()
    odd = folder / "my stÿle 😀 (v1)"
    assert len(str(odd)) > 200 and len(str(odd).encode()) > 300
    for place, words_of in PLACES.items():
        out = odd.parent / place / odd.name
        code, sentence = ended(words_of(str(models), out), nothing, tmp_path / "said.txt")
        Path("/dev/shm/prolora_moved.safetensors").unlink(missing_ok=True)
        assert code == 0, (place, sentence)
        written = [path.name for path in out.parent.iterdir()]
        assert place == "a report" or written, place
        code, sentence = ended(
            words_of(str(models), folder / ("ä" * 200) / "x"), nothing, tmp_path / "said.txt"
        )
        assert code == 1 and "Choose a shorter name" in sentence, (place, sentence)
    assert not list(tmp_path.rglob(".prolora*"))
    tell(
        "faults",
        "names with spaces, umlauts, emoji and Chinese, of more than 300 bytes; names too long",
        2 * len(PLACES),
        f"{len(PLACES)} files written under their names; {len(PLACES)} refused before the job, "
        "with a sentence",
    )
