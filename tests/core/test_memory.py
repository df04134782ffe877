"""Where memory does not suffice: the job ends with that error, and the next one has all bits."""

import pytest

from prolora.algebra.kept import NOTHING_KEPT, Kept
from prolora.command_line import main, program
from prolora.errors import ProLoRAError
from prolora.memory import is_out_of_memory, no_memory
from prolora.progress import silent
from prolora.transfer.settings import TransferSettings

from .every_job import JOBS, no_tensor_is_left
from .faults import NO_MEMORY, FaultAt, operations_of

each_error = pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)


@each_error
def test_it_is_known_by_whoever_says_so(error):
    assert is_out_of_memory(error)
    assert no_memory(error).startswith("The memory does not suffice (")
    assert "\n" not in no_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2"), OSError("no room on the disk"), ProLoRAError("out of memory")],
)
def test_others_are_not(error):
    assert not is_out_of_memory(error)


def without_memory(job, number: float, kind: str, kept) -> None:
    with pytest.raises(type(NO_MEMORY[kind])), FaultAt(number, NO_MEMORY[kind]):
        job(1, silent, kept)
    NO_MEMORY[kind].__traceback__ = None  # which holds what was at work


@each_error
def test_a_device_without_memory_is_not_called_unable(error):
    with pytest.raises(type(error)), FaultAt(0, error):
        TransferSettings()


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_no_memory_in_the_middle_of_a_job(job):
    wanted, kept = job(1, silent, NOTHING_KEPT), Kept()
    count = operations_of(lambda: job(1, silent, NOTHING_KEPT))
    with no_tensor_is_left():
        for part, kind in zip((0.1, 0.5, 0.9), NO_MEMORY, strict=False):
            without_memory(job, part * count, kind, NOTHING_KEPT)
    without_memory(job, 0.7 * count, "torch on the CPU", kept)
    assert job(1, silent, kept) == wanted


@each_error
def test_a_command_says_it_in_a_sentence(tmp_path, capsys, monkeypatch, error):
    def fail(options):
        raise error

    command = next(c for c in program.COMMANDS if c.name == "extract")
    monkeypatch.setattr(program, "COMMANDS", (type(command)(**{**vars(command), "run": fail}),))
    assert main(["extract", "a", "b", "-o", str(tmp_path / "c"), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: The memory does not suffice (") and "--workers 1" in said
