"""Every row of docs/formats.md against what writes it: files of its own, or its restated code.

Files where the writer is a library (`FILES`), its formulas and keys elsewhere (`trainers.py`). That
the page names the same writers is tests/core/test_formats_page.py's business.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lycoris as lycoris_
import numpy as np
import peft.tuners.boft.layer
import pytest
import torch
from peft import (
    BOFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    get_peft_model,
)

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
from .diffusers_files import COMPONENTS, by_diffusers
from .libraries import (
    MODULES,
    Net,
    Written,
    by_lycoris,
    by_peft,
    formed,
    lycoris_applied,
    lycoris_updates,
    randomise,
)
from .small_models import matrix
from .strategies import relative_error
from .trainers import CASES

Write = Callable[[Path], Written]
TARGETS = {"target_modules": list(MODULES)}
UNTRAINED = {"init_weights": False, **TARGETS}


def lycoris(**choices: object) -> Write:
    """With the updates that it trains; `full` and what is left out tell those that it merges."""
    trains = choices.get("algo", "locon") in ("locon", "loha", "lokr")
    updates = lycoris_applied if trains else lycoris_updates
    return lambda folder: by_lycoris(folder, 0.5, updates, **choices)


def peft_(config: object, std: float = 0.3) -> Write:
    return lambda folder: by_peft(folder, config, std)


def diffusers(component: str, metadata: bool = False, **choices: object) -> Write:
    named = "q_proj" if component == "text_encoder" else "to_q"
    config = LoraConfig(r=2, **{"lora_alpha": 2, "target_modules": [named], **choices})
    return lambda folder: by_diffusers(folder, component, config, metadata)


# Row of docs/formats.md -> library -> files that it writes.
FILES: dict[str, dict[str, list[Write]]] = {
    "LoRA": {
        "LyCORIS": [lycoris(), lycoris(use_tucker=True)],
        "PEFT": [peft_(LoraConfig(r=4, lora_alpha=6, **TARGETS))],
        "diffusers": [
            *(diffusers(component) for component in COMPONENTS),
            diffusers("unet", metadata=True, lora_alpha=3),
            diffusers("transformer", metadata=True, lora_alpha=3),
        ],
    },
    "DoRA": {
        "LyCORIS": [
            lycoris(algo=algo, dora_wd=True, wd_on_output=outputs)
            for algo in ("locon", "loha", "lokr")
            for outputs in (True, False)
        ],
        "PEFT": [peft_(LoraConfig(r=4, lora_alpha=6, use_dora=True, **TARGETS))],
        "diffusers": [diffusers(component, use_dora=True) for component in ("unet", "transformer")],
    },
    "LoHa": {
        "LyCORIS": [lycoris(algo="loha"), lycoris(algo="loha", use_tucker=True)],
        "PEFT": [peft_(LoHaConfig(r=4, alpha=6, **UNTRAINED))],
    },
    "LoKr": {
        "LyCORIS": [
            lycoris(algo="lokr", factor=2, linear_dim=1, conv_dim=1),
            lycoris(algo="lokr", factor=2, linear_dim=1, conv_dim=1, use_tucker=True),
            lycoris(algo="lokr", factor=4, linear_dim=1, conv_dim=1, decompose_both=True),
            lycoris(algo="lokr", full_matrix=True),
        ],
        "PEFT": [
            peft_(LoKrConfig(r=1, alpha=3, **UNTRAINED)),
            peft_(LoKrConfig(r=100, alpha=30, **UNTRAINED)),
        ],
    },
    "GLoRA": {"LyCORIS": [lycoris(algo="glora"), lycoris(algo="glora", use_tucker=True)]},
    "OFT": {
        "LyCORIS": [
            lycoris(algo="diag-oft", constraint=limit, rescaled=rescaled)
            for limit in (0, 0.05)
            for rescaled in (True, False)
        ],
        "PEFT": [
            peft_(OFTConfig(oft_block_size=4, **TARGETS), 0.2),
            peft_(OFTConfig(oft_block_size=4, use_cayley_neumann=False, **TARGETS), 0.2),
            peft_(OFTConfig(oft_block_size=4, coft=True, eps=0.5, **TARGETS), 0.2),
        ],
    },
    "BOFT": {
        "LyCORIS": [lycoris(algo="boft", linear_dim=6, conv_dim=6)],
        "PEFT": [
            peft_(BOFTConfig(boft_block_num=4, boft_block_size=0, **TARGETS)),
            peft_(
                BOFTConfig(
                    boft_block_num=4, boft_block_size=0, boft_n_butterfly_factor=2, **TARGETS
                )
            ),
        ],
    },
    "full difference": {"LyCORIS": [lycoris(algo="full")]},
    "IA3": {
        "LyCORIS": [lycoris(algo="ia3")],
        "PEFT": [peft_(IA3Config(target_modules=["linear"], feedforward_modules=[]))],
    },
    "T-LoRA": {"LyCORIS": [lycoris(algo="tlora")]},
}
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


def peft_biases(folder: Path) -> tuple[Path, dict[tuple[str, str], np.ndarray]]:
    """PEFT's own bias of a LoRA's up, as it merges it."""
    torch.manual_seed(0)
    base = Net()
    config = LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=list(MODULES))
    model = get_peft_model(copy.deepcopy(base), config)
    randomise(model)
    model.save_pretrained(folder)
    merged = model.merge_and_unload()
    added = {
        (f"base_model.model.{name}", "diff_b"): merged.get_submodule(name).bias
        - base.get_submodule(name).bias
        for name in MODULES
    }
    return folder / "adapter_model.safetensors", {k: v.detach().numpy() for k, v in added.items()}


def lycoris_vectors(folder: Path) -> tuple[Path, dict[tuple[str, str], np.ndarray]]:
    """The biases of its `full`, and the norms of train_norm, as it merges them."""
    torch.manual_seed(0)
    network = lycoris_.create_lycoris(Net(), algo="full", train_norm=True)
    network.apply_to()
    randomise(network)
    path = folder / "lycoris.safetensors"
    network.save_weights(str(path), torch.float32, {})
    added = {}
    for module in network.loras:
        weight, bias = module.get_merged_weight()
        if module.lora_name == "lycoris_norm":
            norm = module.org_module[0]
            added[module.lora_name, "w_norm"] = weight - norm.weight
            added[module.lora_name, "b_norm"] = bias - norm.bias
        else:
            added[module.lora_name, "diff_b"] = bias - module.org_bias[0]
    return path, {key: value.detach().numpy() for key, value in added.items()}


# As FILES, for norms and biases.
VECTORS = {"LyCORIS": lycoris_vectors, "PEFT": peft_biases}


@pytest.mark.parametrize("library", VECTORS)
def test_norms_and_biases(tmp_path, library):
    path, added = VECTORS[library](tmp_path)
    file = read_adapter_file(path)
    got = {(part.name, part.role): part.tensor.numpy() for part in file.vector_patches}
    assert got.keys() == added.keys() and len(got) == len(file.vector_patches)
    for key, want in added.items():
        assert np.linalg.norm(want) > 0.1
        assert relative_error(got[key], want) < 1e-5


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
