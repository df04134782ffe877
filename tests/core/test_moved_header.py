"""What the file of a moved LoRA says, compared with what the tools and the specification want."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

from prolora.adapters import lora_state_dict, parse_adapter_file
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors
from prolora.inspection import describe_adapter
from prolora.provenance.hashes import file_sha256, old_style_hash
from prolora.provenance.header import base_said
from prolora.provenance.moved import KEPT, Move, moved_header
from prolora.provenance.written import write_lora
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .small_models import drifted, model_of, random_lora, random_weight

MEGABYTE = 0x100000
WEIGHT = random_weight((24, 16))
STYLE = lora_state_dict([random_lora("linear", (24, 16), rank=4, alpha=4)])
KOHYA = {
    "format": "pt",
    "ss_sd_model_name": "one.safetensors",
    "ss_sd_model_hash": "be9edd61",
    "ss_new_sd_model_hash": "31e35c80fc" + "0" * 54,
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "4",
    "ss_network_alpha": "4.0",
    "ss_resolution": "(1024, 1024)",
    "ss_tag_frequency": json.dumps({"10_sks": {"sks": 10}}),
    "ss_v2": "False",
    "sshs_model_hash": "a" * 64,
    "sshs_legacy_hash": "b" * 8,
}
# All that is mandatory by ModelSpec 1.0.1, and what people care for.
MODELSPEC = {
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    "modelspec.title": "My Style",
    "modelspec.resolution": "1024x1024",
    "modelspec.hash_sha256": "0x" + "a" * 64,
    "modelspec.date": "2024-01-02T03:04:05",
    "modelspec.author": "",
    "modelspec.license": "CC-BY-4.0",
    "modelspec.tags": "Style",
    "modelspec.trigger_phrase": "sks",
    "modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 100_000,
}
HEADER = KOHYA | MODELSPEC
# What a move changes.
OF_THE_BASE = ("ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash")
OF_THE_DATA = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def moved(header=HEADER, tensors=STYLE, names=("one", "two"), architecture="SDXL", path=None):
    file = parse_adapter_file(tensors, "style.safetensors", header)
    one, two = (
        replace(model_of(f"{name}.safetensors", {"linear": weight}), architecture=kind)
        for name, weight, kind in zip(
            names, (WEIGHT, drifted(WEIGHT)), ("SDXL", architecture), strict=True
        )
    )
    settings = TransferSettings("full", threshold=0)
    return transfer_lora(file, one, replace(two, path=path), settings)


def written(result, folder, dtype=torch.float32, path=None):
    out = folder / "moved.safetensors"
    write_lora(lora_state_dict(result.contents, dtype), out, result.metadata(), path)
    return out, read_safetensors(out)[1]


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "two.safetensors"
    path.write_bytes(b"2" * (MEGABYTE + 5000))
    return path


def test_the_header_of_the_written_file(tmp_path, base):
    _, now = written(moved(path=base), tmp_path, path=base)
    changed = {*OF_THE_BASE, *OF_THE_DATA}
    assert {key for key in HEADER if now.get(key) != HEADER[key]} == changed
    assert {key.removeprefix(KEPT) for key in now if key.startswith(KEPT)} == changed
    assert all(now[f"{KEPT}{key}"] == HEADER[key] for key in changed)
    assert now["ss_sd_model_name"] == "two.safetensors"
    content = base.read_bytes()
    assert now["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest()
    old = hashlib.sha256(content[MEGABYTE : MEGABYTE + 0x10000]).hexdigest()[:8]
    assert now["ss_sd_model_hash"] == old
    assert not list(tmp_path.glob("*.partial"))


def test_the_hashes_of_the_data_by_their_definitions(tmp_path):
    """kohya hashes what the library makes of the tensors and the ss_ keys alone."""
    large = lora_state_dict([random_lora("linear", (3000, 200), rank=200)])
    header = {**HEADER, "ss_note": "ä\n" * 1000}
    path = tmp_path / "moved.safetensors"
    metadata = {f"{KEPT}{key}": "was" for key in OF_THE_DATA} | header
    write_lora(large, path, metadata)
    now = read_safetensors(path)[1]
    of_training = {key: value for key, value in now.items() if key.startswith("ss_")}
    made = save(load_file(path), of_training)
    data = made[8 + int.from_bytes(made[:8], "little") :]
    assert path.read_bytes().endswith(data)
    assert now["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert now["modelspec.hash_sha256"] == f"0x{now['sshs_model_hash']}"
    assert len(made) > MEGABYTE + 0x10000
    legacy = hashlib.sha256(made[MEGABYTE : MEGABYTE + 0x10000]).hexdigest()[:8]
    assert now["sshs_legacy_hash"] == legacy
    whole = path.read_bytes()[MEGABYTE : MEGABYTE + 0x10000]
    assert legacy != hashlib.sha256(whole).hexdigest()[:8]  # the header has more in it


def test_a_target_whose_file_is_not_known(tmp_path):
    _, now = written(moved(), tmp_path)
    assert now["ss_sd_model_name"] == "two.safetensors"
    assert not {"ss_sd_model_hash", "ss_new_sd_model_hash"} & now.keys()
    nameless = moved(names=("one", "the MODEL of the graph"))
    source, target = nameless.move.source, replace(nameless.move.target, name="the MODEL")
    move = replace(nameless.move, source=source, target=target)
    _, now = written(replace(nameless, move=move), tmp_path)
    assert "ss_sd_model_name" not in now
    assert now[f"{KEPT}ss_sd_model_name"] == "one.safetensors"


def test_nothing_is_added_that_the_original_did_not_say(tmp_path, base):
    _, now = written(moved({"mine": "x"}, path=base), tmp_path, path=base)
    assert now["mine"] == "x"
    assert all(key == "mine" or key.startswith("prolora_") for key in now)
    assert not any(key.startswith(KEPT) for key in now)


@pytest.mark.parametrize(
    ("said", "before", "after", "now"),
    [
        ("sdxl_base_v1-0", "SDXL", "SDXL", "sdxl_base_v1-0"),
        ("sdxl_base_v1-0", "SDXL", "SSD1B", "sdxl_base_v1-0"),
        ("illustrious", "SDXL", "SSD1B", "illustrious"),
        ("sd_v1", "SDXL", "SDXL", "sdxl_base_v1-0"),  # it was wrong
        ("sd_v1", "SD15", "SDXL", "sdxl_base_v1-0"),
        ("illustrious", "SDXL", "SD15", "sd_v1"),
        ("flux1", "Flux", "Krea2", None),
        ("krea2", "Krea2", "Krea2", "krea2"),
    ],
)
def test_the_version_of_the_base(said, before, after, now):
    models = (replace(model_of("x", {}), architecture=kind) for kind in (before, after))
    move = Move(*models, {"LoRA"}, {"LoRA"})
    header = {"ss_base_model_version": said, "modelspec.architecture": f"{said}/lora"}
    found = moved_header(header, move, {})
    assert found.get("ss_base_model_version") == now
    architecture, _, kind = found["modelspec.architecture"].partition("/")
    assert architecture  # it is mandatory
    assert kind == "lora"
    assert (f"{KEPT}ss_base_model_version" in found) == (now != said)
    assert (found["modelspec.architecture"] == f"{said}/lora") == (now == said)


@pytest.mark.parametrize(
    ("before", "after", "module"),
    [
        ({"LoRA"}, {"LoRA"}, "lycoris.kohya"),
        ({"LoRA", "full difference"}, {"LoRA"}, "lycoris.kohya"),
        ({"LoHa"}, {"LoRA"}, "networks.lora"),
        ({"OFT"}, {"LoRA", "DoRA"}, None),
    ],
)
def test_the_module_of_another_family(before, after, module):
    move = Move(model_of("a", {}), model_of("b", {}), before, after)
    header = {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha"}'}
    now = moved_header(header, move, {})
    assert now.get("ss_network_module") == module
    assert ("ss_network_args" in now) == (module == "lycoris.kohya")


@pytest.mark.parametrize(
    ("ranks", "dim", "alpha"),
    [((4,), "4", "4.0"), ((2,), "2", "2"), ((4, 2), "4", "4.0"), ((4, 8), "Dynamic", "Dynamic")],
)
def test_rank_and_alpha(tmp_path, ranks, dim, alpha):
    parts = [random_lora(f"layer_{r}", (24, 16), rank=r, alpha=r) for r in ranks]
    path = tmp_path / "out.safetensors"
    write_lora(lora_state_dict(parts), path, KOHYA)
    now = read_safetensors(path)[1]
    assert (now["ss_network_dim"], now["ss_network_alpha"]) == (dim, alpha)
    assert now.get(f"{KEPT}ss_network_dim", dim) == "4"


def test_moved_twice_the_chain_stays_readable(tmp_path):
    out, first = written(moved(), tmp_path)
    _, second = written(moved(first, load_file(out), ("two", "three")), tmp_path)
    out, third = written(moved(second, load_file(out), ("three", "four")), tmp_path)
    assert third["ss_sd_model_name"] == "four.safetensors"
    chain = ["prolora_move_1_", "prolora_move_2_", "prolora_"]
    sources = [third[f"{step}source"].partition(".")[0] for step in chain]
    assert sources == ["one", "two", "three"]
    kept = [third[f"{step}source_ss_sd_model_name"].partition(".")[0] for step in chain]
    assert kept == sources
    assert third["prolora_move_1_source_ss_sd_model_hash"] == KOHYA["ss_sd_model_hash"]
    assert third["prolora_lora_digest"] != third["prolora_move_2_lora_digest"]
    assert third["modelspec.title"] == "My Style"
    text = describe_adapter(parse_adapter_file(load_file(out), "m.safetensors", third))
    assert "says that it was moved to four.safetensors" in text


def test_the_configuration_of_peft_is_not_that_of_the_result(tmp_path):
    """Its ranks and scales are another's: diffusers, and this project, would read them."""
    config = {"unet.r": 4, "unet.lora_alpha": 4, "unet.base_model_name_or_path": "org/sdxl"}
    _, now = written(moved({"lora_adapter_metadata": json.dumps(config)}), tmp_path)
    assert "lora_adapter_metadata" not in now
    assert json.loads(now[f"{KEPT}lora_adapter_metadata"]) == config
    assert base_said(now).name == "two.safetensors"


KEYS = st.sampled_from([*HEADER, "prolora_mode", "prolora_move_7_mode", "prolora_source_x", "mine"])


@given(st.dictionaries(KEYS, st.text(max_size=40)))
def test_nothing_of_the_original_is_lost(header):
    move = Move(model_of("one", {}), model_of("two", {}), {"LoRA"}, {"LoRA"})
    ours = {"prolora_mode": "full"}
    now = moved_header(header, move, ours)
    assert now.items() >= ours.items()
    for key, value in header.items():
        if key.startswith("prolora_"):
            assert value in now.values()
        else:
            assert value == now.get(key, now.get(f"{KEPT}{key}"))
    mandatory = {key for key in MODELSPEC if key.endswith(("_spec", "architecture", "title"))}
    assert mandatory & header.keys() <= now.keys()


def test_a_base_that_is_gone_or_a_folder(tmp_path):
    for path in (tmp_path / "gone.safetensors", tmp_path):
        _, now = written(moved(path=path), tmp_path, path=path)
        assert "ss_new_sd_model_hash" not in now
        assert now["ss_sd_model_name"] == "two.safetensors"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ProLoRAError, match="could not be saved"):
        written(moved(), tmp_path / "file")


def test_cancel_while_the_base_is_read_leaves_nothing(tmp_path, base):
    def cancel(*_):
        raise KeyboardInterrupt

    result, out = moved(path=base), tmp_path / "out" / "moved.safetensors"
    with pytest.raises(KeyboardInterrupt):
        write_lora(lora_state_dict(result.contents), out, result.metadata(), base, cancel)
    assert not out.parent.exists()
    assert file_sha256(base) and old_style_hash(base)


def test_the_thumbnail_is_kept_and_never_shown(tmp_path):
    result = moved()
    out, now = written(result, tmp_path)
    assert now["modelspec.thumbnail"] == HEADER["modelspec.thumbnail"]
    assert "AAAA" not in describe_adapter(parse_adapter_file(load_file(out), "m", now))
    assert not any("AAAA" in note for note in result.report.notes)
    with safe_open(out, "pt") as file:
        assert file.metadata() == now
