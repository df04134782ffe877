"""Whether a header contradicts the source or names the target; and the file that it names."""

import hashlib
import json
from dataclasses import replace

import pytest

from fixtures import inventory
from prolora.adapters import lora_state_dict, parse_adapter_file
from prolora.errors import ProLoRAError
from prolora.inspection import describe_source
from prolora.provenance import doubts as checked
from prolora.provenance import finding
from prolora.provenance.doubts import doubts_of_source, doubts_of_target
from prolora.provenance.families import family_of
from prolora.provenance.finding import Found, find_base
from prolora.provenance.header import base_said
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of, table_of, warning_of
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings
from tests.host.architectures import without_a_host

from .small_models import model_of, random_lora, random_weight

MEGABYTE = 0x100000
CONTENT = {
    "one.safetensors": b"1" * (MEGABYTE + 100),
    "two.safetensors": b"2" * (MEGABYTE + 100),
    # The old style hash reads neither's beginning.
    "like_one.safetensors": b"3" + b"1" * (MEGABYTE + 99),
}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
OLD = {
    name: hashlib.sha256(content[MEGABYTE:][:0x10000]).hexdigest()[:8]
    for name, content in CONTENT.items()
}


@pytest.fixture
def files(tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in CONTENT}


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The files that are read whole."""
    seen = []

    def file_sha256(path, progress):
        seen.append(path.name)
        return SHA256[path.name]

    for module in (checked, finding):
        monkeypatch.setattr(module, "file_sha256", file_sha256)
    return seen


def header(name="one.safetensors", old="one.safetensors", sha="one.safetensors"):
    """By which file it names: the name, the old style hash, the sha256."""
    known = {"ss_sd_model_name": name, "ss_sd_model_hash": OLD.get(old, "")}
    return known | {"ss_new_sd_model_hash": SHA256.get(sha, "")}


def model(files, name, architecture="SDXL"):
    return replace(model_of(name, {}), path=files.get(name), architecture=architecture)


ONE, TWO, LIKE = CONTENT
WARNS, NOTES, IS_SILENT = "WARNING", "another hash", ""


def test_the_files_are_what_the_table_needs():
    assert OLD[ONE] == OLD[LIKE] != OLD[TWO]
    assert len(set(SHA256.values())) == 3


@pytest.mark.parametrize(
    ("said", "source", "answer", "read"),
    [
        (header(), ONE, IS_SILENT, []),
        (header(), TWO, WARNS, []),
        (header(), LIKE, WARNS, [LIKE]),
        (header(name="renamed.safetensors"), ONE, IS_SILENT, [ONE]),
        (header(name="renamed.safetensors", sha=""), ONE, IS_SILENT, []),
        (header(name="TWO.ckpt"), TWO, NOTES, []),
        (header(name="two_fp16.safetensors"), TWO, NOTES, []),
        (header(old=""), ONE, IS_SILENT, [ONE]),
        (header(old=""), TWO, WARNS, [TWO]),
        (header(old="", sha=""), ONE, IS_SILENT, []),
        (header(old="", sha=""), TWO, WARNS, []),
        (header(name="", sha=""), TWO, WARNS, []),
        (header(name=""), ONE, IS_SILENT, [ONE]),
        (header(name="org/one", old="", sha=""), TWO, IS_SILENT, []),
        ({}, TWO, IS_SILENT, []),
        ({"prolora_target": f"{ONE} (SDXL)"}, TWO, WARNS, []),
        ({"prolora_target": "the MODEL of the graph (SDXL)"}, TWO, IS_SILENT, []),
    ],
)
def test_the_source(files, hashed, said, source, answer, read):
    lines = list(doubts_of_source(said, {}, model(files, source)))
    assert hashed == read
    assert bool(lines) == bool(answer)
    if lines:
        (line,) = lines
        assert answer in str(line)
        assert line.is_warning == (answer == WARNS)
        assert source in line.text
        assert (base_said(said).name or base_said(said).hash) in line.text


def test_a_hash_that_is_cut_to_what_tools_show(files):
    said = {"ss_new_sd_model_hash": f"0x{SHA256[ONE][:10].upper()}"}
    assert not list(doubts_of_source(said, {}, model(files, ONE)))
    assert list(doubts_of_source(said, {}, model(files, TWO)))


def test_a_model_whose_file_is_not_known_is_not_doubted(files):
    assert not list(doubts_of_source(header(), {}, model({}, "the source MODEL")))
    assert list(doubts_of_source(header(), {}, model({}, TWO)))  # a recording has the name


@pytest.mark.parametrize(
    ("said", "architecture", "warns"),
    [
        ({"ss_base_model_version": "sd_v1"}, "SDXL", True),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "SSD1B", False),
        ({"modelspec.architecture": "Flux.1-dev/lora"}, "SD3", True),
        ({"modelspec.architecture": "Flux.1-dev/lora"}, "Flux, SD3 or Qwen-Image", False),
        ({"modelspec.architecture": "my-own/lora"}, "SD3", False),
        ({"ss_base_model_version": "sdxl_", "modelspec.architecture": "wan"}, "SDXL", True),
    ],
)
def test_the_architecture(files, said, architecture, warns):
    lines = list(doubts_of_source(said, {}, model(files, ONE, architecture)))
    assert len(lines) == warns
    assert all(line.is_warning and ONE in line.text for line in lines)


@pytest.mark.parametrize("name", inventory.names())
def test_the_host_and_the_core_mean_the_same_family(name):
    known = inventory.inventory(name)
    family = family_of(known.host_class)
    assert family is not None or known.host_class.startswith("Cosmos")
    by_core = family_of(without_a_host(known).architecture)
    assert by_core in (family, None)


@pytest.mark.parametrize(
    ("said", "source", "target", "swapped"),
    [
        (header(), TWO, ONE, True),
        (header(name="renamed.safetensors"), TWO, ONE, True),
        (header(old="", sha=""), TWO, ONE, True),
        (header(), ONE, TWO, False),
        (header(), ONE, ONE, False),
        (header(), TWO, LIKE, False),
        (header(name=TWO), TWO, ONE, False),  # the source has the name; see NOTES
        ({}, TWO, ONE, False),
    ],
)
def test_source_and_target_swapped(files, said, source, target, swapped):
    models = model(files, source), model(files, target)
    lines = list(doubts_of_target(said, {}, *models))
    assert len(lines) == swapped
    for line in lines:
        assert line.is_warning
        assert "was source and target swapped?" in line.text
        assert target in line.text


@pytest.mark.parametrize(
    ("said", "found", "read"),
    [
        (header(), Found(ONE, False), []),
        (header(name="renamed.safetensors"), Found(ONE, False), [ONE]),
        (header(name=LIKE, old=LIKE, sha=LIKE), Found(LIKE, False), []),
        (header(name="renamed.safetensors", old=LIKE, sha=LIKE), Found(LIKE, False), [ONE, LIKE]),
        (header(old=""), Found(ONE, False), [ONE]),
        (header(name="two_fp16.safetensors", old="", sha=""), Found(TWO, True), []),
        (header(name="org/two", old="", sha=""), Found(TWO, True), []),
        (header(name="Two.ckpt", old="", sha=""), Found(TWO, True), []),
        (header(name=TWO, old="", sha="gone"), Found(TWO, True), []),
        (header(name="renamed.safetensors", sha=""), Found(ONE, True), []),
        (header(name="renamed.safetensors", old=TWO, sha=""), Found(TWO, False), []),
        (header(name="gone.safetensors", old="", sha=""), None, []),
        # It would have to read all files.
        (header(name="renamed.safetensors", old=""), None, []),
    ],
)
def test_the_file_that_a_header_names(files, hashed, said, found, read):
    in_order = dict(sorted(files.items(), reverse=True))
    assert find_base(base_said(said), in_order) == found
    assert sorted(hashed) == sorted(read)


def test_of_two_names_the_exact_one(tmp_path):
    names = ("model_fp16.safetensors", "sub/Model.safetensors", "model_fp8.safetensors")
    paths = dict.fromkeys(names, tmp_path / "none")
    for wanted in ("model.ckpt", "MODEL_fp8.safetensors", "x/model_fp16.safetensors"):
        found = find_base(base_said({"ss_sd_model_name": wanted}), paths)
        stem = wanted.rpartition("/")[2].partition(".")[0].lower()
        assert found.name.lower().rpartition("/")[2].startswith(f"{stem}.")


def test_doubts_reach_the_report(files):
    weight = random_weight((24, 16))
    tensors = lora_state_dict([random_lora("linear", (24, 16))])
    file = parse_adapter_file(tensors, "style.safetensors", header(name=ONE))
    one, two = (
        replace(model_of(name, {"linear": weight}), path=files[name]) for name in (ONE, TWO)
    )
    swapped = transfer_lora(file, two, one, TransferSettings()).report
    first, second = swapped.warnings
    assert "the source is two.safetensors" in first
    assert "swapped?" in second
    assert warning_of(swapped) == f"{first}\n{second}"
    assert all(line in summary_of(swapped) for line in swapped.warnings)
    assert json.loads(swapped.to_json())["warnings"] == [first, second]
    told = describe_source(resolve(file, two)).splitlines()
    verdict = f"1 of 1 modules match the source {TWO} ({two.architecture})"
    assert told[:3] == [first, "", verdict]
    assert "- style.safetensors: " in told[3]

    right = transfer_lora(file, one, two, TransferSettings()).report
    assert right.warnings == ()
    assert "WARNING" not in summary_of(right)
    assert describe_source(resolve(file, one)).startswith("1 of 1 modules match")

    changed = parse_adapter_file(tensors, "style.safetensors", header(name=TWO))
    report = transfer_lora(changed, two, one, TransferSettings()).report
    assert report.warnings == ()
    assert any("another hash" in note for note in report.notes)


def test_cancel_while_the_target_is_read_to_know_it(files):
    """After the last module: the header has a hash that only the whole file tells."""
    tensors = lora_state_dict([random_lora("linear", (24, 16))])
    said = header(name="other.safetensors", old="", sha=TWO)
    file = parse_adapter_file(tensors, "style.safetensors", said)
    weights = {"linear": random_weight((24, 16))}
    one, two = model_of(ONE, weights), replace(model_of(TWO, weights), path=files[TWO])
    seen = []
    transfer_lora(file, one, two, TransferSettings(), lambda *now: seen.append(now[2]))
    assert files[TWO].name in seen[-1] and "" in seen  # which is the end of the modules


def test_a_source_of_another_architecture_is_refused_with_the_name_of_the_right_one():
    tensors = lora_state_dict([random_lora("lora_unet_double_blocks_0_img_attn_qkv", (24, 16))])
    file = parse_adapter_file(tensors, "style.safetensors", header())
    with pytest.raises(ProLoRAError, match=r"its file says that this is one\.safetensors"):
        resolve(file, model_of("x", {"linear": random_weight((24, 16))}))


def test_a_strangers_names_do_not_flood_the_page():
    """A key of a file may be megabytes long, and would be kept in every saved graph."""
    flood = "x" * 10**6
    tensors = lora_state_dict([random_lora("linear", (24, 16)), random_lora(flood, (24, 16))])
    file = parse_adapter_file(
        {**tensors, f"{flood}y": tensors["linear.lora_up.weight"]}, "a.safetensors"
    )
    source = model_of("a", {"linear": random_weight((24, 16))})
    report = transfer_lora(file, source, source, TransferSettings()).report
    texts = summary_of(report), table_of(report), describe_source(resolve(file, source))
    for text in texts:
        assert "xxx" in text
        assert len(text) < 10_000
