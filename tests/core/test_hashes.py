"""The hashes of files, against their definitions and against what LyCORIS computes."""

import hashlib
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lycoris.utils import precalculate_safetensors_hashes
from safetensors.torch import save, save_file

from prolora.errors import ProLoRAError
from prolora.files import digests
from prolora.provenance.hashes import OF_NOTHING, data_sha256, file_sha256, old_style_hash

MEGABYTE = 0x100000


@given(
    size=st.sampled_from((0, 1, MEGABYTE - 1, MEGABYTE, MEGABYTE + 1, MEGABYTE + 0x10001)),
    seed=st.integers(0, 2**16),
    piece=st.sampled_from((1000, 1 << 24)),
)
def test_by_their_definitions(tmp_path_factory, size, seed, piece):
    path = tmp_path_factory.mktemp("hashes") / "file"
    content = os.urandom(64) * (size // 64 + 1)
    content = seed.to_bytes(4, "little") + content[:size]
    path.write_bytes(content)
    before, digests._PIECE = digests._PIECE, piece * 100
    try:
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    finally:
        digests._PIECE = before
    old = hashlib.sha256(content[MEGABYTE : MEGABYTE + 0x10000]).hexdigest()[:8]
    assert old_style_hash(path) == old
    assert (old == OF_NOTHING) == (len(content) <= MEGABYTE)


def test_the_data_of_a_file_as_lycoris_hashes_it(tmp_path):
    """It hashes the tensors one after the other: in the file's order this is the file's data."""
    tensors = {f"lora_unet_{i}.alpha": torch.randn(3, 5) for i in range(4)}
    path = tmp_path / "style.safetensors"
    save_file(tensors, path, {"ss_tag": "x" * 1000})
    in_order = dict(sorted(tensors.items()))  # all of one type: the library sorts by name
    assert f"0x{data_sha256(path)}" == precalculate_safetensors_hashes(in_order)
    save_file(tensors, tmp_path / "bare.safetensors")
    assert data_sha256(tmp_path / "bare.safetensors") == data_sha256(path)
    assert file_sha256(tmp_path / "bare.safetensors") != file_sha256(path)
    assert file_sha256(path) != data_sha256(path)
    assert save(tensors, {"ss_tag": "x" * 1000}) == path.read_bytes()


def test_an_unchanged_file_is_read_once(tmp_path):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"one")
    first = file_sha256(path, lambda *said: seen.append(said))
    assert file_sha256(path, lambda *said: seen.append(said)) == first
    assert seen == [(0, 1, "MB of file read")]
    path.write_bytes(b"two")
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest() != first


def test_another_file_under_the_same_name_and_time(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"one")
    file_sha256(path)
    other.write_bytes(b"two")
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == found.st_mtime_ns
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_cancel_stops_it_and_nothing_is_kept(tmp_path):
    class Cancelled(Exception):
        pass

    def cancel(*_):
        raise Cancelled

    path = tmp_path / "file"
    path.write_bytes(b"one")
    with pytest.raises(Cancelled):
        file_sha256(path, cancel)
    assert file_sha256(path) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("hash_of", [file_sha256, data_sha256, old_style_hash])
def test_a_file_that_is_not_there(tmp_path, hash_of):
    with pytest.raises(ProLoRAError, match=r"gone\.safetensors cannot be read"):
        hash_of(tmp_path / "gone.safetensors")
