"""What was moved is held in the dtype of the LoRA's file, where that holds it."""

from dataclasses import replace

import pytest
import torch

from prolora.adapters import LoraAdapter, lora_state_dict, parse_adapter_file
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .small_models import delta, drifted, file_of, model_of, random_lora, random_weight
from .strategies import relative_error

SHAPE = (96, 64)
WEIGHTS = {"layer": random_weight(SHAPE)}
DRIFTED = {"layer": drifted(WEIGHTS["layer"], 0.1)}
ROUNDING = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-6}


def moved(lora: LoraAdapter, dtype: torch.dtype) -> LoraAdapter:
    """Its own tensors are those of the file, whatever the file says that they are."""
    file = replace(file_of(lora), dtype=dtype)
    models = model_of("A", WEIGHTS), model_of("B", DRIFTED)
    (adapter,) = transfer_lora(file, *models, TransferSettings("full")).adapters
    return adapter


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_in_the_file_s_dtype(dtype):
    lora = random_lora("layer", SHAPE)
    exact, found = moved(lora, torch.float32), moved(lora, dtype)
    assert (found.up.dtype, found.down.dtype) == (dtype, dtype)
    assert relative_error(delta(lora), delta(exact)) > 0.05
    assert relative_error(delta(found), delta(exact)) < ROUNDING[dtype]


def test_what_fp16_would_round_to_nothing_stays_in_float32():
    lora = random_lora("layer", SHAPE)
    faint = replace(lora, up=1e-9 * lora.up, down=1e-9 * lora.down)
    found = moved(faint, torch.float16)
    assert (found.up.dtype, found.down.dtype) == (torch.float32, torch.float32)
    assert relative_error(delta(found), delta(moved(faint, torch.float32))) < 1e-6


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_the_dtype_of_a_file_is_that_of_most_of_it(dtype):
    tensors = lora_state_dict([random_lora("layer", SHAPE)], dtype)
    assert tensors["layer.alpha"].dtype == torch.float32
    assert parse_adapter_file(tensors, "file").dtype == dtype
