"""Rows of a layer's input, against the layer itself: row times weight is what it puts out."""

import pytest
import torch
from torch import nn

from prolora.models.references import Slice, WeightRef
from prolora.recording.layers import Place, why_not_heard

LAYERS = {
    "linear": (nn.Linear(6, 5), (2, 7, 6)),
    "linear, no positions": (nn.Linear(6, 5), (3, 6)),
    "conv 3x3": (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 6, 5)),
    "conv with a stride": (nn.Conv2d(3, 5, 3, stride=2, padding=1), (1, 3, 7, 6)),
    "conv, dilated": (nn.Conv2d(3, 5, 3, dilation=2, padding=(2, 0)), (1, 3, 8, 9)),
    "conv of the same size": (nn.Conv2d(3, 5, (3, 1), padding="same"), (1, 3, 6, 6)),
    "conv, reflecting": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (1, 3, 6, 6)),
    "conv 1d": (nn.Conv1d(3, 5, 3, padding=1), (2, 3, 9)),
    "conv 3d": (nn.Conv3d(3, 5, (1, 2, 2), stride=(1, 2, 2)), (1, 3, 3, 4, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_rows_times_the_weight_are_the_output(kind):
    layer, shape = LAYERS[kind]
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    place = Place(WeightRef("layer.weight"), layer)
    output = layer(inputs)
    wanted = output.movedim(1, -1) if "conv" in kind else output
    wanted = wanted.reshape(-1, wanted.shape[-1])
    assert place.count(inputs) == len(wanted)
    positions = torch.randperm(len(wanted))[:8]
    rows = place.rows(inputs, positions)
    assert rows.shape[1] == place.width == layer.weight[0].numel()
    torch.testing.assert_close(rows @ layer.weight.flatten(1).T + layer.bias, wanted[positions])


def test_a_part_of_the_inputs():
    layer = nn.Linear(6, 5)
    place = Place(WeightRef("layer.weight", Slice(1, 2, 3)), layer)
    inputs = torch.randn(4, 6)
    assert torch.equal(place.rows(inputs, torch.tensor([3, 0])), inputs[[3, 0], 2:5])
    assert place.width == 3


class Quantised(nn.Module):
    """A linear layer as ComfyUI 0.33.0 has it: no nn.Linear, and its weight may be packed."""

    def __init__(self, in_features: int, out_features: int, *shape: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.zeros(shape, dtype=torch.uint8), requires_grad=False)


def test_a_linear_layer_that_is_no_linear_of_torch():
    layer = Quantised(6, 5, 5, 3)
    assert why_not_heard(WeightRef("layer.weight"), {"layer.weight": layer}) == ""
    place, inputs = Place(WeightRef("layer.weight"), layer), torch.randn(4, 6)
    assert place.width == 6
    assert torch.equal(place.rows(inputs, torch.tensor([2])), inputs[2:3])


def test_what_cannot_be_heard_is_said():
    layers = {"norm.weight": nn.LayerNorm(4), "groups.weight": nn.Conv2d(4, 4, 3, groups=2)}
    layers["conv.weight"] = nn.Conv2d(4, 4, 3)
    layers["experts.weight"] = Quantised(6, 5, 2, 5, 6)
    assert "no layer of its own" in why_not_heard(WeightRef("lone.weight"), layers)
    assert "LayerNorm" in why_not_heard(WeightRef("norm.weight"), layers)
    assert "Quantised, neither linear" in why_not_heard(WeightRef("experts.weight"), layers)
    assert "groups" in why_not_heard(WeightRef("groups.weight"), layers)
    assert "inputs of a convolution" in why_not_heard(
        WeightRef("conv.weight", Slice(1, 0, 2)), layers
    )
    assert why_not_heard(WeightRef("conv.weight", Slice(0, 0, 2)), layers) == ""
