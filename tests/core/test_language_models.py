"""Models of transformers, adapters of PEFT, in folders: read, moved, opened by PEFT again."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, LlamaModel

from prolora.command_line import main
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors
from prolora.models.key_map import load_checkpoint
from prolora.named_files import checkpoint

from .dense_reference import dense_pair, dense_project
from .language_models import MODULES, adapter, llama, tuned
from .small_models import matrix
from .strategies import relative_error

TOKENS = torch.arange(12).view(1, 12) * 5 % 64
ENERGY = 0.8


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two models, a and b in shards, and a LoRA of a."""
    monkeypatch.chdir(tmp_path)
    write_models(llama())
    adapter(llama(), Path("style"), task_type="CAUSAL_LM")
    return tmp_path


def write_models(model: nn.Module) -> None:
    model.save_pretrained("a")
    tuned(model).save_pretrained("b", max_shard_size="20KB")
    assert len(list(Path("b").glob("*.safetensors"))) > 2


def transfer(*more: str, out: str = "moved", threshold: str = "0") -> int:
    files = ["style", "--source", "a", "--target", "b", "-o", out]
    choices = ["--mode", "full", "--threshold", threshold, "--dtype", "fp32"]
    return main(["transfer", *files, *choices, *more])


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS)[0]


def with_adapter(folder: str, base: str = "b") -> torch.Tensor:
    """What the base puts out with an adapter, as PEFT and transformers read them."""
    model = AutoModelForCausalLM.from_pretrained(base)
    return outputs(PeftModel.from_pretrained(model, folder).eval())


def dense_outputs(mode: str) -> torch.Tensor:
    """What the target puts out with the update that the formula gives, of PEFT's own merging."""
    source = AutoModelForCausalLM.from_pretrained("a")
    merged = PeftModel.from_pretrained(copy.deepcopy(source), "style").merge_and_unload()
    target = AutoModelForCausalLM.from_pretrained("b").double()
    for name, layer in target.named_modules():
        if isinstance(layer, nn.Linear):
            before, after = (weight_of(model, name) for model in (source, merged))
            pair = dense_pair(before, weight_of(target, name), ENERGY)
            delta = after - before
            layer.weight.data += torch.from_numpy(dense_project(delta, *pair, mode))
    return outputs(target)


def weight_of(model: nn.Module, name: str) -> np.ndarray:
    return matrix(model.get_submodule(name).weight.detach())


def config_in(folder: str) -> Mapping[str, object]:
    return json.loads(Path(folder, "adapter_config.json").read_text())


KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "of two ranks": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.*": 40}},
    "of one layer": {"layers_to_transform": [1]},
    "by a pattern": {"target_modules": r".*\.[12]\.self_attn\.(q|o)_proj"},
    "of all": {"target_modules": "all-linear"},
}


@pytest.mark.parametrize("mode", ["full", "prolora"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_what_was_moved_and_it_does_what_the_formula_says(folder, kind, mode):
    shutil.rmtree("style")
    adapter(llama(), Path("style"), task_type="CAUSAL_LM", **KINDS[kind])
    assert transfer("--mode", mode, "--rank", "8") == 0
    want, bare = dense_outputs(mode), outputs(AutoModelForCausalLM.from_pretrained("b"))
    effect = (want - bare).norm()
    assert (with_adapter("style") - want).norm() > 0.2 * effect
    assert (with_adapter("moved") - want).norm() < 1e-4 * effect


@pytest.mark.filterwarnings("error:Found missing adapter keys")
def test_the_configuration_of_what_was_moved(folder):
    assert transfer() == 0
    before, after = config_in("style"), config_in("moved")
    assert after["base_model_name_or_path"] == "b"
    assert sorted(after["target_modules"]) == sorted(before["target_modules"]) == sorted(MODULES)
    assert (after["r"], after["lora_alpha"], after["rank_pattern"]) == (4, 4, {})
    assert after["task_type"] == "CAUSAL_LM"
    assert after.keys() == before.keys()
    with_adapter("moved")


@pytest.mark.filterwarnings("error:Found missing adapter keys")
def test_modules_that_stay_behind_get_no_lora_from_peft(folder):
    model = AutoModelForCausalLM.from_pretrained("b")
    nn.init.normal_(model.model.layers[1].self_attn.q_proj.weight)
    shutil.rmtree("b")
    model.save_pretrained("b")
    assert transfer(threshold="0.6") == 0
    names = config_in("moved")["target_modules"]
    assert "model.layers.0.self_attn.q_proj" in names
    assert "model.layers.1.self_attn.q_proj" not in names
    with_adapter("moved")


def test_ranks_that_differ_are_in_the_pattern(folder):
    shutil.rmtree("style")
    adapter(llama(), Path("style"), rank_pattern={"v_proj": 2})
    assert transfer() == 0
    found = config_in("moved")
    ranks = {name: tensor.shape[0] for name, tensor in lora_a("moved").items()}
    assert len(set(ranks.values())) > 1
    assert {**dict.fromkeys(ranks, found["r"]), **found["rank_pattern"]} == ranks
    assert found["alpha_pattern"] == found["rank_pattern"]
    assert found["lora_alpha"] == found["r"]
    with_adapter("moved")


def lora_a(folder: str) -> dict[str, torch.Tensor]:
    tensors, _ = read_safetensors(Path(folder, "adapter_model.safetensors"))
    end = ".lora_A.weight"
    return {
        key.removeprefix("base_model.model.").removesuffix(end): tensor
        for key, tensor in tensors.items()
        if key.endswith(end)
    }


def test_a_dora_keeps_its_magnitudes_ratio(folder):
    shutil.rmtree("style")
    adapter(llama(), Path("style"), use_dora=True, target_modules=["down_proj"])
    assert transfer() == 0
    assert config_in("moved")["use_dora"] is True
    source, target = (AutoModelForCausalLM.from_pretrained(name).double() for name in "ab")
    bare = outputs(target)
    before, _ = read_safetensors(Path("style", "adapter_model.safetensors"))
    for name, layer in target.named_modules():
        if not name.endswith("down_proj"):
            continue
        A, B, m = (
            before[f"base_model.model.{name}.{part}"].double()
            for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
        )
        ours, theirs = source.get_submodule(name).weight, layer.weight
        pair = dense_pair(weight_of(source, name), weight_of(target, name), ENERGY)
        delta = torch.from_numpy(dense_project((5 * B @ A).numpy(), *pair, "full"))
        m = m * theirs.norm(dim=1) / ours.norm(dim=1)
        layer.weight.data = (m / (theirs + delta).norm(dim=1))[:, None] * (theirs + delta)
    want = outputs(target)
    effect = (want - bare).norm()
    assert (with_adapter("style") - want).norm() > 0.1 * effect
    assert (with_adapter("moved") - want).norm() < 1e-4 * effect


def test_a_head_that_is_the_embedding(folder):
    """Its weight is in no file under its own name; a LoRA on it moves by the embedding's."""
    for name in ("a", "b", "style"):
        shutil.rmtree(name)
    model = llama(tied=True)
    write_models(model)
    adapter(model, Path("style"), target_modules=["lm_head", "q_proj"])
    assert "lm_head.weight" not in read_safetensors(Path("a", "model.safetensors"))[0]
    assert transfer() == 0
    tensors, _ = read_safetensors(Path("moved", "adapter_model.safetensors"))
    before, _ = read_safetensors(Path("style", "adapter_model.safetensors"))
    found, unmoved = (_update(file, "lm_head") for file in (tensors, before))
    weights = (load_checkpoint(Path(name)).weights.read("lm_head.weight") for name in "ab")
    pair = dense_pair(*map(matrix, weights), ENERGY)
    want = dense_project(5 * unmoved, *pair, "full")
    assert relative_error(5 * unmoved, want) > 0.1
    assert relative_error(found, want) < 1e-5
    assert sorted(config_in("moved")["target_modules"]) == ["lm_head", "q_proj"]


def _update(tensors: Mapping[str, torch.Tensor], module: str) -> np.ndarray:
    A, B = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
    return matrix(B) @ matrix(A)


def test_a_lora_of_the_model_without_its_head(folder):
    """PEFT names the same modules without `model.`; so does what is moved for a model with one."""
    inner = LlamaModel.from_pretrained("a")
    adapter(inner, Path("headless"))
    assert transfer() == 0
    arguments = ["headless", "--source", "a", "--target", "b", "-o", "from_headless"]
    choices = ["--mode", "full", "--threshold", "0", "--dtype", "fp32"]
    assert main(["transfer", *arguments, *choices]) == 0
    want, found = lora_a("moved"), lora_a("from_headless")
    assert want.keys() == found.keys()


def test_a_deeper_target_lists_the_modules(folder):
    shutil.rmtree("b")
    deep = llama(layers=4)
    own, theirs = llama().state_dict(), deep.state_dict()
    for key in theirs:  # a block is added after the first
        block = key.split(".")[2] if ".layers." in key else ""
        from_block = {"2": "1", "3": "2"}.get(block, block)
        theirs[key] = own[key.replace(f".{block}.", f".{from_block}.", 1) if block else key].clone()
    nn.init.normal_(theirs["model.layers.1.self_attn.q_proj.weight"], std=0.02)
    nn.init.normal_(theirs["model.layers.1.mlp.down_proj.weight"], std=0.02)
    deep.load_state_dict(theirs)
    deep.save_pretrained("b")
    assert transfer() == 0
    blocks = {name.split(".")[2] for name in config_in("moved")["target_modules"]}
    assert blocks == {"0", "2", "3"}
    with_adapter("moved")


def test_one_file_for_a_folder_and_a_folder_of_many(folder):
    """A .safetensors is a file all the same; --out-dir gives each its own folder."""
    assert transfer(out="one.safetensors") == 0
    assert transfer(out="moved/") == 0
    one, _ = read_safetensors(Path("one.safetensors"))
    moved, _ = read_safetensors(Path("moved", "adapter_model.safetensors"))
    assert one.keys() == moved.keys()
    assert all(torch.equal(one[key], moved[key]) for key in one)
    shutil.copytree("style", "other")
    arguments = ["style", "other", "--source", "a", "--target", "b", "--out-dir", "out"]
    choices = ["--mode", "full", "--threshold", "0", "--dtype", "fp32"]
    assert main(["transfer", *arguments, *choices]) == 0
    assert {p.name for p in Path("out").iterdir()} == {"style for b", "other for b"}
    assert torch.equal(with_adapter("out/other for b"), with_adapter("moved"))


def test_a_batch_of_folders_is_done_once(folder, capsys):
    Path("library.csv").write_text("lora,out\nstyle,moved\n")
    arguments = ["library.csv", "--source", "a", "--target", "b", "--threshold", "0"]
    for words in ("1 moved", "1 done"):
        assert main(["batch", *arguments]) == 0
        assert f"1 LoRAs: {words}" in capsys.readouterr().out
    assert with_adapter("moved").isfinite().all()


def test_inspect_and_similarity_take_folders(folder, capsys):
    for arguments, words in (
        (["inspect", "style"], "style/adapter_model.safetensors: LoRA"),
        (["inspect", "style", "--source", "a"], "9 of 9 modules match the source a"),
        (["inspect", "b"], "b: a checkpoint, architecture transformers LlamaForCausalLM"),
        (["similarity", "a", "b"], "23 weights"),
    ):
        assert main(arguments) == 0
        assert words in capsys.readouterr().out


def _only_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _without_shard(_: Path) -> None:
    next(Path("b").glob("*.safetensors")).unlink()


def _shard_elsewhere(_: Path) -> None:
    index = Path("b", "model.safetensors.index.json")
    found = json.loads(index.read_text())
    found["weight_map"]["lm_head.weight"] = "../a/model.safetensors"
    index.write_text(json.dumps(found))


def _inside(folder: Path) -> None:
    shutil.move(folder, "inner")
    folder.mkdir()
    shutil.move("inner", folder / "inner")


REFUSED = {
    "a pickle": (_only_pickle, [], "adapter_model.bin, a pickle"),
    "an adapter further in": (_inside, [], "Choose a folder in it: inner, or"),
    "no adapter": (lambda f: shutil.rmtree(f) or f.mkdir(), [], "or the folder of an adapter"),
    "a missing shard": (_without_shard, [], "names 1 files that are not there"),
    "a shard elsewhere": (_shard_elsewhere, [], "is no .safetensors file beside it"),
    "no JSON": (lambda _: Path("b", "config.json").write_text("{"), [], "config.json cannot be"),
    "another naming": (lambda _: None, ["--naming", "kohya"], "is to be a folder of PEFT"),
    "an adapter as a model": (lambda _: None, ["--target", "style"], "is a LoRA, not a checkpoint"),
    "into the LoRA": (lambda _: None, ["-o", "style"], "is part of style"),
    "into the target": (lambda _: None, ["-o", "b"], "b has other files in it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(folder, case, capsys):
    spoil, more, words = REFUSED[case]
    spoil(folder / "style")
    assert transfer(*more) == 1
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert not Path("moved").exists()


def test_an_adapter_that_is_there_is_kept(folder, capsys):
    assert transfer() == 0
    before = Path("moved", "adapter_model.safetensors").read_bytes()
    assert transfer("--mode", "copy") == 1
    assert "exists. Choose another name" in capsys.readouterr().err
    assert Path("moved", "adapter_model.safetensors").read_bytes() == before
    assert transfer("--mode", "copy", "--force") == 0
    assert Path("moved", "adapter_model.safetensors").read_bytes() != before


def test_a_text_encoder_of_a_pipeline_keeps_comfyuis_names(folder):
    """It is of transformers too; only a model of its own has PEFT's names."""
    shutil.copytree("a", "text_encoder")
    assert load_checkpoint(Path("a")).architecture == "transformers LlamaForCausalLM"
    assert load_checkpoint(Path("text_encoder")).architecture == "unknown"


def test_one_model_as_its_folder_and_as_its_file(folder):
    whole, file = load_checkpoint(Path("a")), load_checkpoint(Path("a", "model.safetensors"))
    assert whole.key_map == file.key_map
    with pytest.raises(ProLoRAError, match="is a LoRA"):
        checkpoint(Path("style"))
