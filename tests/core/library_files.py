"""Files of the libraries that write LoRAs, by the rows of docs/formats.md."""

import copy
from collections.abc import Callable
from pathlib import Path

import lycoris as lycoris_
import numpy as np
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

from .diffusers_files import COMPONENTS, by_diffusers
from .libraries import (
    MODULES,
    Net,
    Written,
    by_lycoris,
    by_peft,
    lycoris_applied,
    lycoris_updates,
    randomise,
)

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
