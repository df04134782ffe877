"""Headers are taken and refused as the safetensors library takes and refuses them."""

import json

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from prolora.errors import ProLoRAError
from prolora.files.header import BITS
from prolora.files.safetensors import open_safetensors

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [24, 26]},
    "c": {"dtype": "I64", "shape": [0, 9], "data_offsets": [26, 26]},
}
ODD = ["[NaN]", '{"a":{}}', '{"__metadata__":{"a":1}}', '{"a":"\\ud800"}', '{"\\ud800":{}}', "7"]


def file_of(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def taken_by_library(path) -> dict[str, tuple[int, ...]] | None:
    try:
        with safe_open(path, framework="np") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except SafetensorError:
        return None


def taken_by_us(path) -> dict[str, tuple[int, ...]] | None:
    try:
        file = open_safetensors(path)
    except ProLoRAError:
        return None
    return {key: file.shape(key) for key in file.keys()}


NUMBERS = st.one_of(st.integers(-2, 30), st.sampled_from([2**31, 2**63, 2**64, 2**70, 1.0, True]))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS, "F99", "f32"]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    }
)
METADATA = st.one_of(st.none(), st.dictionaries(st.text(max_size=3), st.text(max_size=3)))


@st.composite
def headers(draw) -> bytes:
    """Good ones, with some of it replaced, or bytes of the text damaged."""
    found = dict(GOOD)
    if draw(st.booleans()):
        found["__metadata__"] = draw(st.one_of(METADATA, ENTRIES))
    for name in draw(st.lists(st.sampled_from("abcd"), max_size=2)):
        found[name] = draw(st.one_of(ENTRIES, NUMBERS, st.sampled_from(list(GOOD.values()))))
    text = bytearray(json.dumps(found).encode())
    for _ in range(draw(st.integers(0, 2))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text) + b" " * draw(st.integers(0, 9))


@settings(deadline=None, max_examples=300)
@given(headers(), st.integers(0, 30))
@example(json.dumps(GOOD).encode(), 26)
@example(json.dumps(GOOD).encode(), 27)
@example(b" " + json.dumps(GOOD).encode(), 26)
@example(b"", 0)
@example(b"{}", 0)
def test_as_the_library_takes_them(tmp_path_factory, header, data):
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(file_of(header, bytes(data)))
    assert taken_by_us(path) == taken_by_library(path)


@pytest.mark.parametrize("header", ODD)
def test_odd_ones(tmp_path, header):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(file_of(header.encode(), b""))
    assert taken_by_us(path) is None
    assert taken_by_library(path) is None


def test_sides_that_torch_does_not_have(tmp_path):
    """The library takes these, and torch refuses them, or takes forever."""
    for shape in ([2**62, 4, 0], [1] * 65, [2**61] * 60 + [0]):
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0 if 0 in shape else 4]}
        path = tmp_path / "sides.safetensors"
        path.write_bytes(file_of(json.dumps({"a": entry}).encode(), b"" if 0 in shape else b"1234"))
        with pytest.raises(ProLoRAError, match="contradicts itself"):
            open_safetensors(path)


def test_a_name_that_no_tensor_has(tmp_path):
    """A tree of modules has a node for each of its dots."""
    path = tmp_path / "name.safetensors"
    for length, is_taken in ((1000, True), (1001, False)):
        path.write_bytes(save({"a" * length: torch.ones(3)}))
        assert (taken_by_us(path) is not None) == is_taken
        assert taken_by_library(path) is not None


def test_what_the_library_writes(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"x": torch.ones(3)}, {"by": "us", "ü": "😀"}))
    file = open_safetensors(tmp_path / "a.safetensors")
    assert file.metadata() == {"by": "us", "ü": "😀"}
    (tmp_path / "b.safetensors").write_bytes(save({"x": torch.ones(3)}))
    assert open_safetensors(tmp_path / "b.safetensors").metadata() is None
