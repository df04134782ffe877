"""The benchmark of two real models: how weights come out of a graph, what is measured, its tables.

The graph here is small and made by hand; ONNX's own evaluator says what it computes.
"""

from itertools import permutations

import pytest
import torch
from torch import nn

from benchmarks.terrain import loras, maps, rows, tables
from benchmarks.terrain.models import VERSIONS, weights_of
from benchmarks.terrain.unet import UNet

WIDTH, GROUPS = 8, 4


class Small(nn.Module):
    """A norm, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, WIDTH)
        self.conv = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


def graph_of(small: Small):
    """What an exporter makes of it: the norm's weights under names of their own."""
    onnx = pytest.importorskip("onnx", reason="requirements/evidence.txt has it")
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    constants = {
        "groups": torch.tensor([0, GROUPS, -1]),
        "ones": torch.ones(GROUPS),
        "zeros": torch.zeros(GROUPS),
        "onnx::Mul_1": small.norm.weight.detach().view(-1, 1, 1),
        "onnx::Add_2": small.norm.bias.detach().view(-1, 1, 1),
        "model.conv.weight": small.conv.weight.detach(),
        "model.conv.bias": small.conv.bias.detach(),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "groups"], ["grouped"]),
        helper.make_node("InstanceNormalization", ["grouped", "ones", "zeros"], ["normal"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["normal", "shape"], ["again"]),
        helper.make_node("Mul", ["again", "onnx::Mul_1"], ["scaled"]),
        helper.make_node("Add", ["scaled", "onnx::Add_2"], ["shifted"]),
        helper.make_node(
            "Conv", ["shifted", "model.conv.weight", "model.conv.bias"], ["y"], pads=[1, 1, 1, 1]
        ),
    ]
    value = helper.make_tensor_value_info
    kind = onnx.TensorProto.FLOAT
    ends = [value("x", kind, [None, WIDTH, 6, 6])], [value("y", kind, [None, 3, 6, 6])]
    weights = [tensor(x.numpy(), name) for name, x in constants.items()]
    return helper.make_graph(nodes, "small", *ends, weights)


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    made = Small()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def test_the_weights_of_a_graph_make_the_module_that_was_exported(small: Small) -> None:
    graph = graph_of(small)
    import onnx
    from onnx.reference import ReferenceEvaluator

    x = torch.randn(2, WIDTH, 6, 6)
    theirs = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, {"x": x.numpy()})[0]
    read = Small()
    with torch.no_grad():
        before = read(x)
        read.load_state_dict(weights_of(graph, read))
        after = read(x)
    assert (before - torch.from_numpy(theirs)).abs().max() > 0.1
    torch.testing.assert_close(after, torch.from_numpy(theirs), rtol=1e-4, atol=1e-4)


def test_a_graph_of_another_model_is_refused(small: Small) -> None:
    graph = graph_of(small)
    other = Small()
    other.conv = nn.Conv2d(WIDTH, 5, 3)
    with pytest.raises(ValueError, match="another model"):
        weights_of(graph, other)


def test_the_network_takes_maps_of_any_size_that_16_divides() -> None:
    torch.manual_seed(0)
    unet = UNet()
    for height, width in ((16, 32), (48, 16)):
        noised = torch.randn(2, 1, height, width)
        with torch.no_grad():
            found = unet(noised, torch.tensor([80.0, 0.002]), torch.tensor([0.0, 1.0]))
        assert found.shape == noised.shape
        # At the lowest noise level a map is its own prediction, whatever the weights are.
        torch.testing.assert_close(found[1], noised[1].clamp(-1, 1))
        assert (found[0] - noised[0].clamp(-1, 1)).abs().max() > 0.1


def test_the_factors_of_a_lora_are_those_that_are_saved(tmp_path) -> None:
    torch.manual_seed(0)
    factors = loras.Factors(UNet().requires_grad_(False))
    for up in factors.up:
        nn.init.normal_(up)
    factors.save(tmp_path / "lora.safetensors")
    from prolora import read_adapter_file

    file = read_adapter_file(tmp_path / "lora.safetensors")
    saved = {adapter.name: adapter for adapter in file.adapters}
    assert len(saved) == len(factors.weights) > 100
    for (name, weight), (_, merged) in zip(
        factors.weights.items(), factors.merged().items(), strict=True
    ):
        delta = saved["lora_unet_" + name.replace(".", "_")].update(weight).delta
        assert delta.norm() > 1e-3
        torch.testing.assert_close(delta.view_as(weight), merged - weight, rtol=1e-4, atol=1e-5)


def test_no_difficulty_is_learned_and_judged_by() -> None:
    generator = torch.Generator().manual_seed(0)
    learned, judged = (
        set(maps.difficulties(2000, generator, held_out).tolist()) for held_out in (False, True)
    )
    assert len(learned) == 80
    assert len(judged) == 20
    assert not learned & judged


def test_the_section_says_what_the_results_say() -> None:
    losses = {"none": 1.0, "retrained": 0.5, "copy": 0.6, "refined": 0.55}
    found = {}
    for source, target in permutations(VERSIONS):
        for change in maps.CHANGES:
            for seed, off in ((1, 0.0), (2, 0.01), (3, -0.02)):
                for row in rows.WAYS:
                    loss = losses.get(row, 0.7) + (off if row == "copy" else 0)
                    line = {"loss": str(loss), "seconds": "1", "own": "", "error": "0.5"}
                    line |= {"cosine": "0.9", "retention": "-0.25"}
                    found[(source, target, change, str(seed)), row] = line
    del found[(*VERSIONS, "flooded", "3"), "theseus"]  # not measured yet
    known = {"parameters": "10000000", "median drift": "0.01"}
    known |= {"largest drift": "0.2", "off 0.4.1": "1e-5", "off 0.4.2": "2e-5"}
    known |= {
        "apart at 128": "0.2",
        f"apart at {maps.SIDE}": "0.3",
        "training x": "40",
        "recording x": "20",
    }
    text = tables.section(found, known)
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        row, *cells = line.strip("| ").split(" | ")
        lines.setdefault(row, cells)  # the first table comes first
    assert lines["copy"][0] == "12"
    assert lines["theseus"][0] == "11"
    assert lines["copy"][1:4] == ["0.807 ± 0.027"] * 2 + ["0.807 ± 0.026"]  # (1 - 0.6 - off) / 0.5
    assert lines["copy"][4:7] == ["0.50 ± 0.00", "0.90 ± 0.00", "-0.25 ± 0.00"]
    assert lines["copy"][7] == "-"
    assert lines["refined"][1:4] == ["0.900 ± 0.000"] * 3
    assert "| refined | copy | 12 | **+0.093** | 12 |" in text
    assert "| theseus | copy | 11 | **-0.204** | 0 |" in text
