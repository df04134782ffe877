"""Every row of docs/formats.md against what writes it: files of its own, or its restated code.

Files where the writer is a library (`FILES`), its formulas and keys elsewhere (`trainers.py`). That
the page names the same writers is tests/core/test_formats_page.py's business.
"""

import copy
from pathlib import Path
from types import SimpleNamespace

import lycoris
import numpy as np
import peft.tuners.boft.layer
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from prolora.adapters import Adapter, parse_adapter_file, read_adapter_file
from prolora.adapters.dora import DoraAdapter
from prolora.adapters.suffixes import (
    DIFFERENCES,
    MAGNITUDES,
    NORMS,
    NOT_MOVED,
    SHARED,
    SUFFIXES,
    split_key,
)
from prolora.files.safetensors import read_safetensors

from . import trainers_dora, trainers_lora, trainers_oft  # noqa: F401  # they fill CASES
from .libraries import Written
from .library_files import FILES, VECTORS, diffusers
from .small_models import matrix
from .strategies import formed, relative_error
from .trainers import CASES, DIT, NAMES

# Rows of what lies beside a LoRA.
ROWS_OF_A_LORA = {
    "beside any family": "LoRA",
    "bundled embeddings": "LoRA",
    "differences of norms and biases, and set weights": "LoRA",
}
LEFT_OUT = {
    "IA3": "IA3 is not moved",
    "T-LoRA": "T-LoRA is not moved",
    "the OFT of early LyCORIS": "the OFT of early LyCORIS is not moved",
    "DoKr-OFT": "DoKr-OFT is not moved",
    "newer forms": "is of a form that ProLoRA does not know, and is not moved",
    "modulation difference": "a modulation difference",
}


@pytest.fixture(autouse=True)
def peft_without_a_compiler(monkeypatch):
    """See test_boft.py."""

    def block_diagonals(stages: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([torch.block_diag(*blocks) for blocks in stages])]

    kernel = SimpleNamespace(forward=block_diagonals)
    monkeypatch.setattr(peft.tuners.boft.layer, "_FBD_CUDA", kernel)


def changed(adapter: Adapter, weight: torch.Tensor) -> np.ndarray:
    """What the weight becomes, m x n: of a DoRA, by the formula of those who train it."""
    whole = matrix(weight) + formed(adapter.update(weight.double()))
    if not isinstance(adapter, DoraAdapter):
        return whole
    blocks = whole.reshape(*weight.shape[:2], -1)
    m = adapter.magnitude.double().numpy().reshape((-1, 1, 1) if adapter.axis == 0 else (1, -1, 1))
    if adapter.direction.family == "OFT":
        norms = adapter.norms.double().numpy().reshape(m.shape)
    else:
        over = (1, 2) if adapter.axis == 0 else (0, 2)
        norms = np.sqrt((blocks**2).sum(axis=over, keepdims=True))
    return (m * blocks / norms).reshape(whole.shape)


WRITTEN = [
    pytest.param(row, write, id=f"{row}-{library}-{i}")
    for row, libraries in FILES.items()
    for library, writes in libraries.items()
    for i, write in enumerate(writes)
]
SAVED = [
    pytest.param(row, cases, id=f"{row}-{tool}")
    for row, tools in CASES.items()
    for tool, cases in tools.items()
]


def family(adapter: Adapter) -> str:
    return adapter.family.partition(" over ")[0]


@pytest.mark.parametrize(("row", "write"), WRITTEN)
def test_a_file_of_the_writer_s_own(tmp_path, row, write):
    written = write(tmp_path)
    file = read_adapter_file(written.path)
    if row in LEFT_OUT:
        assert (file.adapters, set(file.left_out.values())) == ((), {LEFT_OUT[row]})
        return
    assert (file.unknown, file.left_out) == ((), {})
    assert {family(adapter) for adapter in file.adapters} == {row}
    assert {adapter.name for adapter in file.adapters} == set(written.updates)
    for adapter in file.adapters:
        weight, update = written.weights[adapter.name], written.updates[adapter.name]
        assert np.linalg.norm(update) > 0.05 * np.linalg.norm(matrix(weight))
        assert relative_error(changed(adapter, weight) - matrix(weight), update) < 1e-5


@pytest.mark.parametrize(("row", "cases"), SAVED)
def test_the_writer_s_code(row, cases):
    for case in cases():
        file = parse_adapter_file(case.tensors, "style.safetensors")
        assert file.unknown == ()
        if row in LEFT_OUT:
            assert file.adapters == ()
            (reason,) = file.left_out.values()
            assert LEFT_OUT[row] in reason
            continue
        assert file.left_out == {}
        got = {part.role: part.tensor for part in file.vector_patches}
        assert got.keys() == case.added.keys()
        assert all(torch.equal(got[role], case.added[role]) for role in got)
        assert len(file.adapters) == (case.changed is not None)
        for adapter in file.adapters:
            assert family(adapter) == ROWS_OF_A_LORA.get(row, row)
            before = matrix(case.weight)
            change = np.linalg.norm(case.changed - before)
            error = np.linalg.norm(changed(adapter, case.weight) - case.changed)
            # to 1e-5 where anything changes, to rounding where nothing does
            assert error <= 1e-5 * max(change, 1e-3 * np.linalg.norm(before))


def test_the_cases_change_their_weights():
    for row, tools in CASES.items():
        for tool, cases in tools.items():
            moved = [case for case in cases() if case.changed is not None]
            far = [relative_error(matrix(case.weight), case.changed) for case in moved]
            assert not far or max(far) > 0.02, (row, tool)


def test_onetrainer_s_bundled_embeddings_are_told():
    for case in CASES["bundled embeddings"]["OneTrainer"]():
        (note,) = parse_adapter_file(case.tensors, "style.safetensors").notes
        assert note.startswith("2 tensors are embeddings that OneTrainer bundled")


@pytest.mark.parametrize("library", VECTORS)
def test_norms_and_biases(tmp_path, library):
    path, added = VECTORS[library](tmp_path)
    file = read_adapter_file(path)
    got = {(part.name, part.role): part.tensor.numpy() for part in file.vector_patches}
    assert got.keys() == added.keys() and len(got) == len(file.vector_patches)
    for key, want in added.items():
        assert np.linalg.norm(want) > 0.1
        assert relative_error(got[key], want) < 1e-5


def names_in(path: Path) -> set[str]:
    return {split[0] for key in read_safetensors(path)[0] if (split := split_key(key))}


def test_what_the_libraries_call_a_module(tmp_path):
    """A module of a path, in a file of each."""
    network: nn.Module = nn.Linear(16, 24)
    for name in reversed(DIT.split(".")):
        parent = nn.Module()
        parent.add_module(name, network)
        network = parent
    adapted = get_peft_model(copy.deepcopy(network), LoraConfig(r=2, target_modules=["q"]))
    adapted.save_pretrained(tmp_path)
    assert names_in(tmp_path / "adapter_model.safetensors") == NAMES["PEFT"]
    wrapped = lycoris.create_lycoris(network, linear_dim=2)
    wrapped.apply_to()
    wrapped.save_weights(str(tmp_path / "lycoris.safetensors"), torch.float32, {})
    assert names_in(tmp_path / "lycoris.safetensors") == NAMES["LyCORIS"]
    found = set()
    for component in ("unet", "transformer", "text_encoder"):
        folder = tmp_path / component
        found |= names_in(diffusers(component)(folder).path)
    assert found >= NAMES["diffusers"]
    assert any(name.startswith("text_encoder.") for name in found)


def test_every_suffix_is_one_that_a_writer_writes(tmp_path):
    """All but this project's own, lokr_t1, which is refused, and bm, which LyCORIS only reads."""
    written = {
        suffix
        for tools in CASES.values()
        for cases in tools.values()
        for case in cases()
        for key in case.tensors
        for _, suffix in [split_key(key) or ("", "")]
    }
    writes = [write for tools in FILES.values() for files in tools.values() for write in files]
    for number, write in enumerate((*writes, *VECTORS.values())):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = write(folder)
        path = found.path if isinstance(found, Written) else found[0]
        for key in read_safetensors(path)[0]:
            written.add((split_key(key) or ("", ""))[1])
    beside = (MAGNITUDES, NORMS, DIFFERENCES, SHARED, NOT_MOVED)
    promised = {suffix for table in (*SUFFIXES.values(), *beside) for suffix in table}
    assert promised - written == {".lokr_t1", ".bm.weight", *SUFFIXES["FouRA"]}
