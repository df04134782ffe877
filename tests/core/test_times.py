"""The times of docs/evidence.md: what runs and is counted is what is meant, on tiny networks."""

import pytest
import torch

from benchmarks.evidence import page
from benchmarks.evidence.results import Results
from benchmarks.times import measure, tables
from benchmarks.times.networks import TINY, built
from benchmarks.times.transferring import kinds, transfer_of
from prolora.recording.record import RecordingSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return built(TINY, CPU, torch.float32)


@pytest.fixture(scope="module")
def tflop() -> dict[str, float]:
    return measure.counted(built(TINY, torch.device("meta"), torch.bfloat16))


def flat(values: torch.Tensor) -> torch.Tensor:
    return values.double().flatten()


def test_a_pass_of_two_models_is_sdxls_with_something_added(networks):
    def answers(job) -> torch.Tensor:
        torch.manual_seed(1)
        return flat(job())

    def answers_of_sdxl() -> torch.Tensor:
        """After the numbers that SD1.5 is given in a pass of both."""
        torch.manual_seed(1)
        networks.run_sd15()
        return flat(networks.run_sdxl())

    both, alone = answers(networks.run_two), answers_of_sdxl()
    assert float((both - alone).norm() / alone.norm()) > 1e-6
    with torch.no_grad():
        for mapper in networks.mappers:
            mapper.body[-1].weight.zero_()
            mapper.body[-1].bias.zero_()
    assert torch.equal(answers(networks.run_two), alone)


def test_what_two_models_take_is_what_each_takes_and_the_mapping_layers(tflop):
    mapped = sum(_operations(*shape) for shape in _MAPPING)
    wanted = tflop["sdxl"] + tflop["sd15"] + mapped / 1e12
    assert tflop["two models"] > 1.05 * (tflop["sdxl"] + tflop["sd15"])
    assert tflop["two models"] == pytest.approx(wanted, rel=1e-9)


def _operations(inputs: int, outputs: int, kernel: int, side: int) -> int:
    return 2 * inputs * outputs * kernel**2 * side**2


# Of TINY: widths 32, 64, 64 of both; features of SD1.5 at a half, all, all of its 16; all of them
# three residual blocks of two convolutions and a last one of 1 x 1.
_MAPPING = [
    *[(64, 64, 3, 8)] * 6,
    (64, 64, 1, 8),
    *[(64, 64, 3, 16)] * 6,
    (64, 64, 1, 16),
    (32, 32, 3, 16),  # the transposed one: a product for each place of what comes in
    (32, 64, 3, 32),
    *[(64, 64, 3, 32)] * 6,
    (64, 64, 1, 32),
]


def test_a_training_step_has_gradients_for_its_lora_alone_and_leaves_none_of_it():
    networks = built(TINY, CPU, torch.float32)
    before = {name: value.clone() for name, value in networks.sdxl.state_dict().items()}
    heard: list[int] = []
    for part, job in networks.jobs():
        if part == "training step":
            learning = [p for p in networks.sdxl.parameters() if p.requires_grad]
            for parameter in learning:
                parameter.register_post_accumulate_grad_hook(lambda p: heard.append(p.numel()))
            job()
            assert len(heard) == len(learning) > 0
            assert sum(heard) < sum(value.numel() for value in before.values())
    after = networks.sdxl.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_training_step_is_more_than_two_passes_and_less_than_five(tflop):
    assert 2 < tflop["training step"] / tflop["sdxl"] < 5


def test_the_kinds_of_modules_are_all_of_sdxls_unet():
    found = kinds()
    assert sum(len(kind.modules) for kind in found) == 722
    assert len({kind.name for kind in found}) == len(found)


def test_a_kind_of_module_is_moved():
    smallest = min(kinds(), key=lambda kind: kind.operations)
    (adapter,) = transfer_of(smallest, CPU)().adapters
    assert adapter.delta_shape == smallest.shape


def sections(tmp_path, monkeypatch, parts) -> dict[str, list[str]]:
    """The lines of both tables, of made-up results."""
    found = Results(tmp_path / "times.csv", measure.KEYS, measure.COLUMNS)
    tflop = {"sdxl": 10.0, "sd15": 1.0, "two models": 14.0, "training step": 30.0}
    for part, operations in tflop.items():
        found.add(measure.COUNTED, part, 0, tflop=operations, mparameters=operations)
    for repeat in range(3):
        slower = 1 + 0.1 * repeat
        for part in parts:  # at a quarter of the size, two seconds a TFLOP
            ran = tflop[part] / 4
            found.add("cpu", part, repeat, seconds=2 * ran * slower, tflop=ran, environment="here")
        found.add("cpu", "transfer", repeat, seconds=2 * slower, modules=9, environment="here")
    monkeypatch.setattr(tables, "results", lambda: found)
    written = tmp_path / "evidence.md"
    monkeypatch.setattr(page, "PAGES", (written,))
    places = ("times-two-models", "times-wall-clock")
    written.write_text("".join(f"<!-- {p} -->\n<!-- end of {p} -->\n" for p in places))
    tables.report()
    rows = [line.split("|")[1:-1] for line in page.PAGES[0].read_text().splitlines() if "|" in line]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def row(found: dict[str, list[str]], begin: str) -> list[str]:
    return next(cells for name, cells in found.items() if name.startswith(begin))


def test_the_tables_sum_what_was_counted_and_measured(tmp_path, monkeypatch):
    found = sections(tmp_path, monkeypatch, measure.PASSES)
    assert row(found, "SDXL")[2:5] == ["1000", "1.00", "2200"]  # the mean of three repeats
    assert row(found, "both")[2:6] == ["1400", "1.40", "3080", "1.40 ± 0.00"]
    half = next(cells for name, cells in found.items() if "start 0.5" in name)
    assert half[0] == "0 / 100 / 50"
    assert half[2:6] == ["800", "0.80", "1760", "0.80 ± 0.00"]
    assert row(found, "transfer")[5] == f"{18 / (1600 * 60):.4f} ± 0.0000"
    settings = RecordingSettings()
    assert int(row(found, "recording")[0]) == 64 * (2 * 20 + 3 * settings.levels)
    assert "The transfer on cpu: 20 ± 2 s (here)." in page.PAGES[0].read_text()


def test_a_device_without_all_parts_has_no_column(tmp_path, monkeypatch):
    found = sections(tmp_path, monkeypatch, ("sdxl",))
    assert row(found, "both")[2:] == ["1400", "1.40"]
    assert "The transfer on cpu: 20 ± 2 s (here)." in page.PAGES[0].read_text()
