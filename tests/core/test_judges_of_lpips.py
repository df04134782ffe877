"""LPIPS as a judge, against its authors' package set up in its own way."""

import pytest
import torch
import torchvision

from prolora.errors import ProLoRAError
from prolora.evaluation.judges.perceptual import Perceptual

from .judged_pictures import picture

lpips = pytest.importorskip("lpips", reason="lpips is not installed")

CPU = torch.device("cpu")
IMAGES = [picture(i, (256, 256)) for i in range(3)]


@pytest.fixture(scope="module")
def trunk() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.alexnet(weights=None)


@pytest.fixture
def judge(tmp_path, trunk) -> Perceptual:
    torch.save(trunk.state_dict(), tmp_path / "alexnet.pth")
    return Perceptual(tmp_path / "alexnet.pth", CPU)


def test_it_says_what_the_package_says(monkeypatch, judge, trunk):
    monkeypatch.setattr(torchvision.models, "alexnet", lambda **choices: trunk)
    own = lpips.LPIPS(net="alex", verbose=False)  # with the weights that lie in the package
    tensors = [torchvision.transforms.functional.to_tensor(image) for image in IMAGES]
    first, second = torch.stack(tensors[:2]), torch.stack(tensors[1:])
    with torch.no_grad():
        want = own(first, second, normalize=True).flatten()
    seen = judge.pictures(IMAGES)
    found = judge.distances(seen[:2], seen[1:])
    assert want.min() > 1e-4 and (want[0] - want[1]).abs() > 0.1 * want.min()
    assert (found - want).abs().max() < 1e-4 * want.max()


def test_identical_pictures_are_at_0(judge):
    seen = judge.pictures(IMAGES)
    assert judge.distances(seen, seen.roll(1, 0)).min() > 1e-4
    assert judge.distances(seen, seen).abs().max() == 0


def test_a_small_picture_is_brought_to_the_size(judge):
    assert judge.pictures([picture(0, (32, 48)), IMAGES[0]]).shape == (2, 3, 256, 256)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_another_trunk(tmp_path, name):
    network = torchvision.models.get_model(name, weights=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ProLoRAError, match="neither torchvision's AlexNet nor its VGG16"):
        Perceptual(tmp_path / "weights.pth", CPU)
