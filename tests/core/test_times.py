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
    return measure.counted(TINY)


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


def test_the_tables_sum_what_was_measured(tmp_path, monkeypatch):
    found = Results(tmp_path / "times.csv", measure.KEYS, measure.COLUMNS)
    seconds = {"sdxl": 10.0, "sd15": 1.0, "two models": 14.0, "training step": 30.0}
    for repeat in range(3):
        for part, took in seconds.items():
            scaled = took * (1 + 0.1 * repeat)
            # It ran at a quarter of the size.
            operations = {"tflop": took / 4, "full_tflop": took}
            found.add("cpu", part, repeat, seconds=scaled / 4, mparameters=took, **operations)
        scaled = 2.0 * (1 + 0.1 * repeat)
        found.add(
            "cpu",
            "transfer mlp 2 x 2",
            repeat,
            seconds=scaled,
            tflop=1.0,
            full_tflop=1.0,
            modules=9.0,
        )
    monkeypatch.setattr(tables, "results", lambda: found)
    written = tmp_path / "evidence.md"
    monkeypatch.setattr(page, "PAGES", (written,))
    places = ("times-two-models", "times-wall-clock")
    written.write_text("".join(f"<!-- {p} -->\n<!-- end of {p} -->\n" for p in places))
    tables.report()
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in written.read_text().splitlines()
        if line.startswith("| ")
    ]
    by_name = {cells[0]: cells[1:] for cells in lines}
    alone, each_step = by_name["SDXL with the moved LoRA"], by_name["both at each step"]
    assert alone[:3] == ["100 / 0 / 0", "1000", "1100"]  # the mean of the three repeats
    assert each_step[1:5] == ["1400", "1540", "1.40", "1.40 ± 0.00"]
    half = next(cells for name, cells in by_name.items() if "start 0.5" in name)
    assert half[:2] == ["0 / 100 / 50", "800"]
    assert half[3:5] == ["0.80", "0.80 ± 0.00"]
    moved = next(cells for name, cells in by_name.items() if name.startswith("transfer"))
    assert moved[2] == "0.009"
    assert moved[4] == f"{18 / (1600 * 30):.4f} ± 0.0000"
    heard = next(cells for name, cells in by_name.items() if name.startswith("recording"))
    settings = RecordingSettings()
    assert int(heard[0]) == 64 * (2 * 20 + 3 * settings.levels)
