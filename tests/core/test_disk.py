"""Saving where the system itself refuses: a real full file and a real read-only folder."""

import os
import resource
import tempfile
from pathlib import Path

import pytest
import torch

from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors, write_safetensors

NOBODY = 65534
OLD, NEW = {"a": torch.zeros(4)}, {"a": torch.ones(1 << 18)}


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        file = Path(folder) / "lora.safetensors"
        write_safetensors(OLD, file, {})
        yield file
        Path(folder).chmod(0o777)


def in_child(job) -> str:
    """What `job` raises as a ProLoRAError, run in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            job()
            os.write(writer, b"no error")
        except ProLoRAError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return pipe.read()


def test_no_room_for_the_file(path):
    """The system stops the file in the middle, as a full disk does."""

    def job() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
        write_safetensors(NEW, path, {})

    message = in_child(job)
    assert "could not be saved" in message
    assert "Make room on that disk" in message
    unchanged(path)


def test_a_read_only_folder(path):
    path.parent.chmod(0o555)

    def job() -> None:
        if os.geteuid() == 0:  # root may write anywhere
            os.setuid(NOBODY)
        write_safetensors(NEW, path, {})

    assert "Permission denied" in in_child(job)
    unchanged(path)


def unchanged(path: Path) -> None:
    assert torch.equal(read_safetensors(path)[0]["a"], OLD["a"])
    assert list(path.parent.iterdir()) == [path]
