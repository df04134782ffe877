"""One real ComfyUI for all host tests, with the pack, the demo's models and the probe nodes."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from safetensors.numpy import load_file

from comfy_harness.client import ComfyClient
from comfy_harness.server import ComfyServer
from demo.run import link_models

from .checks import trespasses
from .probes import NODES
from .prompts import PromptBuilder
from .small_sd15 import write_small_sd15


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    folder = tmp_path_factory.mktemp("comfy")
    link_models(folder)
    with ComfyServer(folder, NODES) as server:
        yield server
        assert not trespasses(server.client())


@pytest.fixture(scope="session")
def client(comfy: ComfyServer) -> ComfyClient:
    return comfy.client()


@pytest.fixture(scope="session")
def sd15(comfy: ComfyServer) -> None:
    """The files that workflows/ name."""
    write_small_sd15(comfy.folder / "models")


@pytest.fixture(scope="session")
def object_info(client: ComfyClient) -> dict:
    return client.object_info()


@pytest.fixture
def graph() -> PromptBuilder:
    return PromptBuilder()


@pytest.fixture
def latents(comfy: ComfyServer) -> Callable[[str], np.ndarray]:
    """The newest latents that were saved under a prefix."""

    def load(prefix: str) -> np.ndarray:
        newest = max((comfy.folder / "output").glob(f"{prefix}_?????_.latent"))
        return load_file(newest)["latent_tensor"].astype(np.float64)

    return load
