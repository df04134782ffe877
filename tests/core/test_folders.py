"""Folders of diffusers for the command line, beside checkpoints of the same model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fixtures.stable_diffusion import SDXL as FULL_SDXL
from fixtures.stable_diffusion import sdxl_checkpoint
from prolora.adapters import lora_state_dict
from prolora.command_line import main
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors, write_safetensors
from prolora.models.key_map import load_checkpoint, model_of
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights

from .diffusers_layout import CHECKPOINTS, components_of, unet_of, write_folder, write_shards
from .small_models import drifted, random_lora

CPU = torch.device("cpu")


def weight(model: Model, ref: WeightRef) -> torch.Tensor:
    return model.weight(ref, CPU, torch.float32)


def write_checkpoint(path: Path, model: str, prefix: str = "model.diffusion_model.") -> Path:
    tensors = CHECKPOINTS[model]
    save_file({k.replace("model.diffusion_model.", prefix, 1): t for k, t in tensors.items()}, path)
    return path


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("model", CHECKPOINTS)
def test_both_layouts_have_the_same_names_for_the_same_weights(tmp_path, model, shards):
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "a.safetensors", model))
    folder = load_checkpoint(write_folder(tmp_path / "pipeline", model, shards))
    assert (folder.name, folder.architecture) == ("pipeline", checkpoint.architecture)
    assert checkpoint.key_map == folder.key_map
    for ref in set(checkpoint.key_map.values()):
        assert torch.equal(weight(checkpoint, ref), weight(folder, ref))
        assert checkpoint.shape(ref) == folder.shape(ref)


def test_the_full_sdxl():
    """Real names and shapes, no data."""
    shapes = sdxl_checkpoint()
    checkpoint = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    theirs = {f"unet/{k}": t for k, t in unet_of(checkpoint, FULL_SDXL.depths).items()}
    assert len(theirs) == sum(key.startswith("model.diffusion_model.") for key in checkpoint)
    whole, in_folder = (model_of("", StateDictWeights(tensors)) for tensors in (checkpoint, theirs))
    names = {n: ref for n, ref in whole.key_map.items() if ref.key.startswith("diffusion_model.")}
    assert names == in_folder.key_map
    assert {whole.shape(ref) == in_folder.shape(ref) for ref in names.values()} == {True}
    for name in (
        "lora_unet_input_blocks_8_1_transformer_blocks_9_attn2_to_k",
        "lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_attn2_to_k",
        "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.processor.to_k",
    ):
        want = "diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight"
        assert names[name] == WeightRef(want)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
@pytest.mark.parametrize("model", CHECKPOINTS)
def test_a_diffusion_model_under_any_prefix(model, prefix):
    unet = {k: t for k, t in CHECKPOINTS[model].items() if k.startswith("model.diffusion_model.")}
    moved = {k.replace("model.diffusion_model.", prefix, 1): t for k, t in unet.items()}
    library = components_of(model)["unet"]
    known, *others = (model_of("", StateDictWeights(tensors)) for tensors in (unet, moved, library))
    for other in others:
        assert known.key_map == other.key_map
        for key in known.weights:
            assert torch.equal(known.weights.read(key), other.weights.read(key))


LORA = (
    random_lora("lora_unet_input_blocks_7_1_transformer_blocks_3_attn1_to_q", (8, 8), rank=2),
    random_lora("lora_unet_up_blocks_0_upsamplers_0_conv", (8, 8, 3, 3), rank=2),
    random_lora("lora_te1_text_model_encoder_layers_0_mlp_fc1", (32, 8), rank=2),
    random_lora("lora_te2_text_model_encoder_layers_0_self_attn_k_proj", (8, 8), rank=2),
)


def test_a_lora_moves_between_the_layouts_both_ways(tmp_path, monkeypatch):
    """As between two checkpoints; one of the files has no prefix."""
    tuned = {k: drifted(t, 0.1, seed) for seed, (k, t) in enumerate(CHECKPOINTS["SDXL"].items())}
    for name, tensors in (("a", CHECKPOINTS["SDXL"]), ("b", tuned)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        monkeypatch.setitem(CHECKPOINTS, "SDXL", tensors)
        write_folder(tmp_path / f"{name}_folder", "SDXL", shards=2)
    write_safetensors(lora_state_dict(LORA), tmp_path / "style.safetensors", {})

    def moved(source: str, target: str) -> dict[str, torch.Tensor]:
        out = tmp_path / f"from_{Path(source).stem}_to_{Path(target).stem}.safetensors"
        files = ["--source", str(tmp_path / source), "--target", str(tmp_path / target)]
        choices = ["-o", str(out), "--mode", "full", "--threshold", "0", "--dtype", "fp32", "--force"]
        assert main(["transfer", str(tmp_path / "style.safetensors"), *files, *choices]) == 0
        return read_safetensors(out)[0]

    want = moved("a.safetensors", "b.safetensors")
    assert len(want) >= 3 * len(LORA) - 1
    before = lora_state_dict(LORA)
    assert any(not torch.allclose(want[k].float(), before[k].float(), atol=1e-2) for k in before)
    for source in ("a.safetensors", "a_folder"):
        for target in ("b.safetensors", "b_folder"):
            found = moved(source, target)
            assert found.keys() == want.keys()
            assert all(torch.equal(found[key], want[key]) for key in want)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "text_encoder_2"])
def test_one_model_of_a_folder(tmp_path, part, monkeypatch):
    folder = write_folder(tmp_path / "pipeline", "SDXL")
    whole, alone = load_checkpoint(folder), load_checkpoint(folder / part)
    monkeypatch.chdir(folder / part)
    here = load_checkpoint(Path())
    start = {"unet": "diffusion_model.", "text_encoder": "clip_l.", "text_encoder_2": "clip_g."}
    wanted = {n: ref for n, ref in whole.key_map.items() if ref.key.startswith(start[part])}
    assert wanted
    assert alone.name == here.name == part
    assert wanted.items() <= alone.key_map.items()
    assert alone.key_map == here.key_map


def test_one_file_of_a_folder(tmp_path):
    folder = write_folder(tmp_path / "pipeline", "SDXL")
    file = load_checkpoint(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert file.key_map == load_checkpoint(folder / "unet").key_map
    renamed = folder.rename(tmp_path / "elsewhere") / "unet"
    other = load_checkpoint(renamed.rename(tmp_path / "my_unet"))
    assert other.key_map == file.key_map


@pytest.mark.parametrize("shards", [1, 2])
def test_a_variant(tmp_path, shards):
    folder = write_folder(tmp_path / "pipeline", "SD1.5", shards, variant="fp16")
    names = load_checkpoint(folder).key_map
    assert names == load_checkpoint(write_folder(tmp_path / "full", "SD1.5")).key_map


def test_the_full_weights_count_more_than_a_variant(tmp_path):
    folder = write_folder(tmp_path / "pipeline", "SD1.5")
    unet = components_of("SD1.5")["unet"]
    half = {key: torch.zeros_like(tensor).half() for key, tensor in unet.items()}
    save_file(half, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    write_shards(folder / "unet", "diffusion_pytorch_model", half, 2, "bf16")
    read = load_checkpoint(folder).weights.read("diffusion_model.input_blocks.0.0.weight")
    assert read.equal(unet["conv_in.weight"])


def test_a_quantised_weight_and_its_scale_in_two_shards(tmp_path):
    folder = tmp_path / "transformer"
    folder.mkdir()
    stored, scale = torch.randn(8, 8).to(torch.float8_e4m3fn), torch.tensor(0.5)
    mark = torch.frombuffer(bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    tensors = {"l.comfy_quant": mark, "l.weight": stored, "l.weight_scale": scale}
    write_shards(folder, "diffusion_pytorch_model", tensors, 3)
    model = load_checkpoint(folder)
    assert model.weights.read("diffusion_model.l.weight").equal(stored.float() / 2)
    assert {ref.key for ref in model.key_map.values()} == {"diffusion_model.l.weight"}


def index(folder: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(text)


def naming(name: object) -> dict[str, object]:
    return {"weight_map": {"conv_in.weight": name}}


def only(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"PK\x03\x04")


SHARD = "diffusion_pytorch_model-00001-of-00002.safetensors"
NO_INDEX = r"index\.json is no index of shards.*Download it again"
ELSEWHERE = r"which is no \.safetensors file beside it.*ProLoRA opens no other"
# What is wrong with a folder that has an empty unet, and the message.
BAD = {
    "nothing": (
        lambda folder: None,
        r"bad is a folder\. Choose a file in it, or a folder of",
    ),
    "other files": (lambda f: only(f, "unet/config.json", "README.md"), "Choose a file in it"),
    "a pickle": (
        lambda f: only(f, "unet/diffusion_pytorch_model.bin"),
        r"unet has its weights in diffusion_pytorch_model\.bin: a pickle.*convert",
    ),
    "a pickle for the text encoder": (
        lambda f: only(f, "text_encoder/pytorch_model.bin"),
        r"text_encoder has its weights in pytorch_model\.bin: a pickle",
    ),
    "a pickle in the index": (
        lambda f: index(f, naming("diffusion_pytorch_model-00001-of-00002.bin")),
        r"names diffusion_pytorch_model-00001-of-00002\.bin: a pickle",
    ),
    "shards alone": (lambda f: only(f, f"unet/{SHARD}"), "has shards of a model but no index"),
    "a shard missing": (
        lambda f: index(f, naming(SHARD)),
        rf"index\.json names 1 files that are not there: {SHARD}\. Download",
    ),
    "a broken shard": (
        lambda f: (index(f, naming(SHARD)), (f / "unet" / SHARD).write_bytes(b"<html>")),
        rf"{SHARD} is not a readable safetensors file",
    ),
    "no JSON": (lambda f: index(f, "{'weight_map'"), NO_INDEX),
    "an empty index": (lambda f: index(f, ""), NO_INDEX),
    "a list": (lambda f: index(f, []), NO_INDEX),
    "a text": (lambda f: index(f, '"weight_map"'), NO_INDEX),
    "no map": (lambda f: index(f, {"metadata": {}}), NO_INDEX),
    "a list for a map": (lambda f: index(f, {"weight_map": [SHARD]}), NO_INDEX),
    "an empty map": (lambda f: index(f, {"weight_map": {}}), NO_INDEX),
    "a number": (lambda f: index(f, naming(3)), NO_INDEX),
    "lists": (lambda f: index(f, naming([SHARD])), NO_INDEX),
    "deep JSON": (lambda f: index(f, "[" * 100000), NO_INDEX),
    "a file above": (lambda f: index(f, naming("../a.safetensors")), ELSEWHERE),
    "a file anywhere": (lambda f: index(f, naming("/tmp/a.safetensors")), ELSEWHERE),
    "a file below": (lambda f: index(f, naming("x/a.safetensors")), ELSEWHERE),
    "a path of Windows": (lambda f: index(f, naming("..\\a.safetensors")), ELSEWHERE),
    "a drive": (lambda f: index(f, naming("C:a.safetensors")), ELSEWHERE),
    "another kind of file": (lambda f: index(f, naming("config.json")), ELSEWHERE),
    "two variants": (
        lambda f: only(f, *(f"unet/diffusion_pytorch_model.{v}.safetensors" for v in ("a", "b"))),
        r"more than one variant.*model\.a\.safetensors, .*model\.b\.safetensors\. Leave one",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders(tmp_path, kind):
    damage, words = BAD[kind]
    folder = tmp_path / "bad"
    (folder / "unet").mkdir(parents=True)
    save_file({"conv_in.weight": torch.ones(2, 2)}, folder / "a.safetensors")
    damage(folder)
    with pytest.raises(ProLoRAError, match=words):
        load_checkpoint(folder)


def test_an_index_above_a_file_that_exists(tmp_path):
    """The file would be read if the path were followed."""
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file({"conv_in.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    index(tmp_path, naming("../a.safetensors"))
    with pytest.raises(ProLoRAError, match=ELSEWHERE):
        load_checkpoint(folder)


def test_shards_that_are_links_are_read(tmp_path):
    """As the cache of Hugging Face keeps them."""
    folder = write_folder(tmp_path / "pipeline", "SD1.5")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.symlink_to(file.rename(tmp_path / "blob"))
    assert "diffusion_model.input_blocks.0.0.weight" in load_checkpoint(folder).weights


def test_names_that_only_comfyui_knows(tmp_path):
    """The message says what the command line does not know."""
    folder = tmp_path / "transformer"
    folder.mkdir()
    tensors = {"transformer_blocks.0.attn.to_q.weight": torch.randn(8, 8)}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    target = str(shutil.copytree(folder, tmp_path / "other"))
    arguments = ["--source", str(folder), "--target", target, "-o", str(tmp_path / "out")]
    for name, code in (("transformer.transformer_blocks.0.attn.to_q", 0), ("lora_unet_other", 1)):
        file = tmp_path / f"{code}.safetensors"
        write_safetensors(lora_state_dict([random_lora(name, (8, 8))]), file, {})
        assert main(["transfer", str(file), *arguments]) == code


def test_the_message_for_names_that_do_not_match(tmp_path, capsys):
    save_file({"blocks.0.weight": torch.randn(8, 8)}, tmp_path / "a.safetensors")
    file = tmp_path / "style.safetensors"
    write_safetensors(lora_state_dict([random_lora("lora_unet_other", (8, 8))]), file, {})
    target = shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    arguments = ["--source", str(tmp_path / "a.safetensors"), "--target", str(target)]
    arguments += ["-o", str(tmp_path / "out")]
    assert main(["transfer", str(file), *arguments]) == 1
    assert capsys.readouterr().err.endswith(
        "Choose the checkpoint it was trained on. Without ComfyUI, the modules of a.safetensors "
        "are known by its own names for them alone; in a graph, ComfyUI may know others.\n"
    )


def test_a_folder_is_inspected_and_never_written_into(tmp_path, capsys):
    folder = write_folder(tmp_path / "pipeline", "SD1.5")
    assert main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("pipeline: a checkpoint, architecture SD1.x or SD2.x, ")
    lora = random_lora("lora_unet_conv_in", (8, 8, 3, 3))
    write_safetensors(lora_state_dict([lora]), tmp_path / "style.safetensors", {})
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    target = str(shutil.copytree(folder, tmp_path / "other"))
    choices = ["--source", str(folder), "--target", target, "-o"]
    assert main(["transfer", str(tmp_path / "style.safetensors"), *choices, str(weights)]) == 1
    assert f"{weights} is part of {folder}; what is there would be lost" in capsys.readouterr().err
    assert weights.read_bytes() == before
    new = folder / "loras" / "style.safetensors"
    assert main(["transfer", str(tmp_path / "style.safetensors"), *choices, str(new)]) == 0
