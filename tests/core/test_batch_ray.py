"""`prolora batch --engine ray`: workers move the chunks, and one that is killed is replaced."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from prolora.files.safetensors import read_safetensors

from .command_line_files import environment, run
from .libraries_of_loras import stamps, table_in
from .long_job import write_long_job

pytest.importorskip("ray", reason="Ray is not installed")
psutil = pytest.importorskip("psutil")
COUNT, RESULTS = 12, Path("library results.csv")
WORDS = ("batch", "library.csv", "--source", "a.safetensors", "--target", "b.safetensors",
         "--threshold", "0", "--chunk", "2", "--workers", "1", "--engine", "ray")  # fmt: skip
TWO_CORES = """
import sys
import ray
from prolora.command_line import main
start = ray.init
ray.init = lambda **choices: start(num_cpus=2, **choices)
sys.exit(main())
"""


def at_work(driver) -> list:
    """The workers that move a chunk right now, which Ray tells by their names."""
    found = []
    for process in driver.children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::move_chunk"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_worker_is_killed_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [path.stem for path in write_long_job(tmp_path, loras=COUNT, wide=640, blocks=8)]
    rows = "\n".join(f"{name}.safetensors,moved/{name}" for name in names)
    Path("library.csv").write_text(f"lora,out\n{rows}\n")
    with subprocess.Popen(
        [sys.executable, "-c", TWO_CORES, *WORDS],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as program:
        driver = psutil.Process(program.pid)
        workers: set[int] = set()
        while not list(Path("moved").glob("*.safetensors")):
            assert program.poll() is None, program.communicate()
            workers |= {process.pid for process in at_work(driver)}
            time.sleep(0.01)
        while not (victims := at_work(driver)):
            assert program.poll() is None
        victims[0].kill()
        written = stamps(Path("moved"))
        while program.poll() is None:
            workers |= {process.pid for process in at_work(driver)}
            time.sleep(0.05)
        out, error = program.communicate()
    assert program.returncode == 0, error
    assert len(workers) >= 3  # two at first, and the one in the place of the dead
    assert f"\n{COUNT} LoRAs: " in f"\n{out}"
    after = stamps(Path("moved"))
    assert {path.stem for path in after} == set(names)
    assert 0 < len(written) < COUNT and written.items() <= after.items()  # none was moved twice
    for name in names:
        header = read_safetensors(Path("moved", f"{name}.safetensors"))[1]
        assert header["prolora_lora"] == f"{name}.safetensors"
    assert [Path(row["lora"]).stem for row in table_in(RESULTS)] == names
    assert {row["status"] for row in table_in(RESULTS)} <= {"moved", "done"}

    again = run(tmp_path, *WORDS[:-2])  # another engine knows them as done
    assert (again.returncode, {row["status"] for row in table_in(RESULTS)}) == (0, {"done"})
    assert stamps(Path("moved")) == after
