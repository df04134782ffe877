"""Weights made of a file's tensors when they are read, against the whole file converted at once."""

from collections.abc import Iterator, Mapping

import pytest
import torch

from prolora.models.converted import ConvertedWeights


class ReadFile(Mapping):
    """A file's tensors that tells which of them were looked at."""

    def __init__(self, tensors):
        self.tensors, self.read = tensors, set()

    def __getitem__(self, key: str) -> torch.Tensor:
        self.read.add(key)
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def file() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"a": (6, 4), "q": (2, 4), "k": (3, 4), "v": (2, 4), "lone": (5,), "dropped": (3,)}
    return {key: torch.randn(shape, generator=random) for key, shape in shapes.items()}


def renamed(given):
    return {"b": given["a"], "c": given["lone"]}


def cut(given):
    third = len(given["a"]) // 3
    return {name: given["a"][third * i : third * (i + 1)] for i, name in enumerate("xyz")}


def joined(given):
    return {"qkv": torch.cat([given["q"], given["k"], given["v"]]), "b": given["a"]}


def joined_step_by_step(given):
    """As ComfyUI joins: into what is there, made larger whenever it does not suffice."""
    whole = torch.empty_like(given["q"])
    whole.narrow(0, 0, 2)[:] = given["q"]
    larger = torch.empty((7, 4), device=whole.device)
    larger[: len(whole)] = whole
    larger.narrow(0, 4, 3)[:] = given["k"]
    larger.narrow(0, 2, 2)[:] = given["v"]
    return {"qvk": larger, "b": given["a"]}


def written_in_place(given):
    """As ComfyUI swaps scale and shift: into the file's own tensor."""
    half = given["a"].chunk(2)
    given["a"][:] = torch.cat([half[1], half[0]])
    return {"swapped": given["a"], "c": given["lone"]}


def transposed(given):
    return {"t": given["a"].transpose(0, 1).contiguous(), "also": given["a"].reshape(4, 6)}


def out_of_nothing(given):
    return {"mark": torch.zeros(1), "c": given["lone"]}


def one_for_two(given):
    return {"c": given["lone"], "d": given["lone"]}


ALL = [
    renamed,
    cut,
    joined,
    joined_step_by_step,
    written_in_place,
    transposed,
    out_of_nothing,
    one_for_two,
]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("convert", ALL)
def test_each_weight_is_that_of_the_whole_file(convert, inference):
    tensors = file()
    with torch.inference_mode(inference):
        at_once = convert({key: tensor.clone() for key, tensor in tensors.items()})
        weights = ConvertedWeights(tensors, convert)
        for _ in "twice":  # nothing is left of the first time
            for key, expected in at_once.items():
                assert torch.equal(weights.read(key), expected)
    assert list(weights) == list(at_once)
    assert {key: weights.shape(key) for key in weights} == {
        key: tuple(tensor.shape) for key, tensor in at_once.items()
    }
    assert all(torch.equal(tensor, file()[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    ("convert", "key", "sources"),
    [
        (renamed, "b", {"a"}),
        (cut, "y", {"a"}),
        (joined, "qkv", {"q", "k", "v"}),
        (joined_step_by_step, "qvk", {"q", "k", "v"}),
        (written_in_place, "swapped", {"a"}),
        (out_of_nothing, "mark", set()),
    ],
)
def test_only_what_a_weight_is_made_of_is_read(convert, key, sources):
    tensors = ReadFile(file())
    weights = ConvertedWeights(tensors, convert)
    tensors.read.clear()
    weights.read(key)
    assert tensors.read == sources


def test_a_renamed_tensor_is_the_files_own():
    tensors = file()
    weights = ConvertedWeights(tensors, joined)
    assert weights.read("b") is tensors["a"]
    assert weights.unread()["b"] is tensors["a"]
    assert weights.unread()["qkv"].is_meta
    assert "qkv" in weights and "q" not in weights


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.uint8])
def test_the_dtype_stays(dtype):
    try:
        torch.cat([torch.zeros(1).to(dtype)] * 2)
    except RuntimeError:
        pytest.skip(f"torch {torch.__version__} cannot join {dtype}")
    tensors = {key: tensor.to(dtype) for key, tensor in file().items()}
    weights = ConvertedWeights(tensors, written_in_place)
    assert weights.read("swapped").dtype == weights.read("c").dtype == dtype


def test_quantised_layers_keep_their_scales():
    """The scale of a layer that is renamed lies beside its weight by the new name too."""
    tensors = {
        "old.weight": torch.ones(2, 3).to(torch.float8_e4m3fn),
        "old.scale_weight": torch.tensor(0.5),
    }
    weights = ConvertedWeights(
        tensors, lambda given: {key.replace("old", "new"): t for key, t in given.items()}
    )
    assert torch.equal(weights.read("new.weight"), torch.full((2, 3), 0.5))
