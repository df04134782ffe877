"""The two versions of adaptive-terrain-diffusion on PyPI: their weights, as torch and as files.

Both cannot be installed side by side, so that their wheels are downloaded and opened.
"""

import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.evidence.patched import patched
from benchmarks.evidence.results import BUILD
from prolora import load_checkpoint
from prolora.adapters import Adapter
from prolora.models.model import Model
from prolora.recording.network import Network, Prompt

from .unet import UNet, output_scale

VERSIONS = ("0.4.1", "0.4.2")
PACKAGE, MEMBER = "adaptive-terrain-diffusion", "terrain_diffusion/weights/"
FOLDER = BUILD / "terrain"
UNET = "diffusion_model."  # what the core calls the weights of a diffusion model begins so

State = Mapping[str, torch.Tensor]


def graph_file(version: str) -> Path:
    """The graph of a version, out of its wheel, which pip downloads."""
    folder = FOLDER / version
    if not (found := list(folder.glob(f"{MEMBER}*.onnx"))):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        subprocess.run([*pip, str(folder), f"{PACKAGE}=={version}"], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith(MEMBER)])
        found = list(folder.glob(f"{MEMBER}*.onnx"))
    return found[0]


def checkpoint(version: str) -> Path:
    """The weights of a version as a safetensors file, under the graph's names."""
    path = FOLDER / f"{version}.safetensors"
    if not path.is_file():
        import onnx

        save_file(dict(weights_of(onnx.load(graph_file(version)).graph, UNet())), path)
    return path


def weights_of(graph: Any, module: nn.Module) -> State:
    """The weights that a graph holds, by the names of a module's.

    The exporter kept the names of all layers but the norms. Those follow in the graph as they do in
    the module: a norm is an InstanceNormalization of groups without weights of its own, a Reshape,
    a Mul and an Add, whose constants are the norm's weights.

    Args:
        graph: an onnx.GraphProto.

    Raises:
        ValueError: the graph has other weights than the module.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"
    }
    reader = {name: node for node in graph.node for name in node.input}

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(numpy_helper.to_array(constants[name]).copy())

    norms = []
    for node in graph.node:
        if node.op_type == "InstanceNormalization":
            scaled = reader[reader[node.output[0]].output[0]]
            for step in (scaled, reader[scaled.output[0]]):
                norms += [tensor(name).flatten() for name in step.input if name in constants]
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.GroupNorm)]
    ends = (f"{name}.{end}" for name in names for end in ("weight", "bias"))
    found = dict(zip(ends, norms, strict=True))
    wanted = module.state_dict()
    for name in constants:
        _, _, own = name.partition(".")  # after the name that the exporter gave the whole
        if own in wanted:
            found[own] = tensor(name)
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in wanted.items()}:
        raise ValueError(f"the graph {graph.name} is of another model")
    return found


@cache
def network(version: str) -> UNet:
    unet = UNet()
    unet.load_state_dict(load_file(checkpoint(version)))
    return unet.requires_grad_(False)


@cache
def model(version: str) -> Model:
    """The same as the core sees it."""
    return load_checkpoint(checkpoint(version))


def layers_of(unet: nn.Module) -> dict[str, nn.Module]:
    """The layers by the keys that the core gives their weights."""
    return {
        f"{UNET}{name}.weight": layer
        for name, layer in unet.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }


def worn(version: str, adapters: Sequence[Adapter] | None) -> Any:
    """A context in which a version's network computes with adapters."""
    if adapters is None:
        return nullcontext()
    return patched(layers_of(network(version)), model(version), adapters)


def network_of(version: str, adapters: Sequence[Adapter] | None = None) -> Network:
    """A version as recording and refinement see it, with a LoRA on it where one is given."""
    unet = network(version)

    def denoise(
        noised: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        difficulties = torch.cat([prompt.tensors["difficulty"] for prompt in prompts])
        with worn(version, adapters):
            found: torch.Tensor = unet(noised, sigmas, difficulties)
        return found

    return Network(
        root=nn.Module(),  # small enough that no block has to be computed again for its gradient
        layers=layers_of(unet),
        denoise=denoise,
        output_scale=output_scale,
        noised=lambda clean, noise, sigmas: clean + sigmas.view(-1, 1, 1, 1) * noise,
    )


def prompts_of(difficulties: torch.Tensor) -> tuple[Prompt, ...]:
    return tuple(Prompt({"difficulty": one[None]}, text=f"{one:.2f}") for one in difficulties)


def drifts() -> Iterator[float]:
    """||W_t - W_s|| / ||W_s|| of each matrix and kernel, from the first version to the second."""
    first, second = (network(version).state_dict() for version in VERSIONS)
    for name, weight in first.items():
        if weight.ndim > 1:
            yield float((second[name] - weight).norm() / weight.norm())


def disagreement(version: str) -> float:
    """The largest difference between our module and the graph, on noise in the package's size."""
    import onnxruntime

    generator = torch.Generator().manual_seed(1)
    sigmas, difficulties = torch.tensor([80.0, 8.0, 0.5]), torch.tensor([0.2, 0.6, 0.9])
    noised = torch.randn(3, 1, 128, 128, generator=generator) * sigmas.view(-1, 1, 1, 1)
    graph = onnxruntime.InferenceSession(graph_file(version), providers=["CPUExecutionProvider"])
    given = {"noisy": noised, "sigma": sigmas, "difficulty": difficulties}
    (theirs,) = graph.run(None, {name: value.numpy() for name, value in given.items()})
    with torch.no_grad():
        ours = network(version)(noised, sigmas, difficulties)
    return float((ours - torch.from_numpy(theirs)).abs().max())
