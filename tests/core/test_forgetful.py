"""Blocks that are computed again give the gradients of blocks that are kept."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from prolora.recording.forgetful import forgetful


class Block(nn.Module):
    """Writes over what it was given, takes a dictionary and returns a tuple with None in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.runs = 0

    def forward(self, x, *, more, times=1):
        self.runs += 1
        x = x.clone() if not self.overwrites else x
        x += self.first(more["also"]) * times
        return x, None, torch.tanh(self.second(x)), torch.arange(3)

    overwrites = True


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        x, total = x * 1, 0.0
        for block in self.blocks:
            x, nothing, other, numbers = block(x, more={"also": torch.sin(x)}, times=2)
            assert nothing is None
            assert numbers.tolist() == [0, 1, 2]
            total = total + other.square().sum()
        return total + x.sum()


def gradients(net: Net, x: torch.Tensor) -> list[torch.Tensor]:
    parameters = list(net.parameters())
    return list(torch.autograd.grad(net(x), parameters))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_the_gradients_are_the_same(net):
    x = torch.randn(4, 5)
    for block in net.blocks:
        block.overwrites = False
    wanted = gradients(net, x)
    for overwrites in (False, True):
        for block in net.blocks:
            block.overwrites, block.runs = overwrites, 0
        entered = []

        @contextmanager
        def again(entered=entered):
            entered.append(1)
            yield

        with forgetful(list(net.blocks), again):
            net.zero_grad()
            net(x).backward()
        found = [parameter.grad for parameter in net.parameters()]
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)
        assert [block.runs for block in net.blocks] == [2, 2, 2]
        assert len(entered) == 3
    assert all("forward" not in vars(block) for block in net.blocks)


def test_the_inputs_get_a_gradient_too(net):
    x = torch.randn(4, 5, requires_grad=True)
    for block in net.blocks:
        block.overwrites = False
    (wanted,) = torch.autograd.grad(net(x), [x])
    with forgetful(list(net.blocks), lambda: contextmanager(lambda: (yield))()):
        net(x).backward()
    torch.testing.assert_close(x.grad, wanted)


def test_less_is_kept_in_between(net):
    x = torch.randn(4, 5)

    def kept() -> int:
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(x)
        return sum(sizes)

    for block in net.blocks:
        block.overwrites = False
    before = kept()
    with forgetful(list(net.blocks), lambda: contextmanager(lambda: (yield))()):
        after = kept()
    assert after < 0.6 * before


def test_without_gradients_a_block_runs_as_ever(net):
    with forgetful(list(net.blocks), lambda: contextmanager(lambda: (yield))()), torch.no_grad():
        net(torch.randn(4, 5))
    assert [block.runs for block in net.blocks] == [1, 1, 1]
