"""Adapters built, given random values, merged and saved by the libraries that write them."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lycoris
import numpy as np
import torch
from peft import PeftConfig, get_peft_model
from torch import nn
from torch.nn import Conv2d, LayerNorm, Linear

from prolora.adapters import read_adapter_file

from .strategies import formed, relative_error

logging.getLogger("LyCORIS").setLevel(logging.ERROR)

MODULES = ("linear", "conv1", "conv3")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(16, 24)
        self.conv1 = Conv2d(8, 12, 1)
        self.conv3 = Conv2d(8, 12, 3)
        self.norm = LayerNorm(16)


@dataclass(frozen=True)
class Written:
    """A file, the weights that it was trained on, and what the library itself adds to them.

    Modules go by the names in the file.
    """

    path: Path
    weights: Mapping[str, torch.Tensor]
    updates: Mapping[str, np.ndarray]


def randomise(network: nn.Module, std: float = 1.0) -> None:
    """Trained values: a fresh adapter changes nothing."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=std)


def by_peft(folder: Path, config: PeftConfig, std: float = 1.0) -> Written:
    """As PEFT saves it, with the updates that PEFT makes when it merges."""
    torch.manual_seed(0)
    base = Net()
    model = get_peft_model(copy.deepcopy(base), config)
    randomise(model, std)
    model.save_pretrained(folder)
    merged = model.merge_and_unload()
    names = [name for name in MODULES if name in config.target_modules]
    weights = {name: base.get_submodule(name).weight.detach() for name in names}
    updates = {name: merged.get_submodule(name).weight - weights[name] for name in names}
    return Written(
        folder / "adapter_model.safetensors",
        {f"base_model.model.{name}": weight for name, weight in weights.items()},
        {f"base_model.model.{name}": flat(update) for name, update in updates.items()},
    )


def by_lycoris(
    folder: Path,
    std: float = 1.0,
    updates_of: Callable[[nn.Module], Mapping[str, np.ndarray]] | None = None,
    **choices: object,
) -> Written:
    """The same for LyCORIS (kohya's layout); the updates are what it merges, or `updates_of`."""
    torch.manual_seed(0)
    options = {"linear_dim": 4, "linear_alpha": 1.5, "conv_dim": 2, "conv_alpha": 6, **choices}
    network = _network(options)
    network.apply_to()
    randomise(network, std)
    path = folder / "lycoris.safetensors"
    network.save_weights(str(path), torch.float32, {})
    return Written(path, lycoris_weights(network), (updates_of or lycoris_updates)(network))


_NETWORK_FIELDS = {
    "linear_dim": "lora_dim",
    "linear_alpha": "alpha",
    "conv_dim": "conv_lora_dim",
    "algo": "network_module",
}


def _network(options: Mapping[str, object]) -> nn.Module:
    """Its `create_lycoris` drops `rs_lora`, which its entry point for kohya's trainer passes on."""
    if "rs_lora" not in options:
        return lycoris.create_lycoris(Net(), **options)
    return lycoris.LycorisNetwork(
        Net(), **{_NETWORK_FIELDS.get(name, name): value for name, value in options.items()}
    )


def lycoris_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {m.lora_name: m.org_weight.detach().clone() for m in _matrices(network)}


def lycoris_updates(network: nn.Module) -> dict[str, np.ndarray]:
    return {m.lora_name: flat(m.get_merged_weight()[0] - m.org_weight) for m in _matrices(network)}


@torch.no_grad()
def lycoris_applied(network: nn.Module) -> dict[str, np.ndarray]:
    """What its modules add to the outputs, one input at a time: what they are trained with.

    For LoHa and LoKr, LyCORIS 4.1.3 merges something else: it multiplies by the scale twice.
    """
    updates = {}
    for module in _matrices(network):
        inputs = module.org_weight.shape[1:]
        basis = torch.eye(inputs.numel()).reshape(-1, *inputs)
        added = module.forward(basis) - module.org_forward(basis)
        updates[module.lora_name] = flat(added).T
    return updates


def _matrices(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.loras if module.org_weight.ndim > 1]  # no norms


def flat(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().flatten(1).numpy()


def updates_in(path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """What we read out of a file, for these weights."""
    return {
        adapter.name: formed(adapter.update(weights[adapter.name].float()))
        for adapter in read_adapter_file(path).adapters
    }


def assert_same_updates(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    """To 1e-5 relative; a merge rounds a float32 update to the size of its weight."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert np.linalg.norm(value) > 0.1
        assert relative_error(got[name], value) < 1e-5, name


def assert_reads_as_written(written: Written) -> None:
    """Our update of every module equals the library's own."""
    assert_same_updates(updates_in(written.path, written.weights), written.updates)
