"""The small models' evidence: tables of hand-made figures; what is trained is what is moved."""

import pytest
import torch

pytest.importorskip("comfy", reason="the demo's models are ComfyUI's classes")

from benchmarks.evidence.patched import patched
from benchmarks.fidelity import loras, models, tables, tasks
from benchmarks.fidelity.models import MODELS
from benchmarks.fidelity.trained import Dora, Foura
from demo.training.model import Lora, build_model, load_model, save_model
from demo.training.network import network_of
from prolora import TransferSettings, load_checkpoint, read_adapter_file
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import resolve

COLUMNS = ("target", "kind", "name", "family", "rank", "seed", "row", "loss", "error")


def lines(target, losses, seeds=(1, 2, 3), name="cyanotype"):
    """Losses by rows, each a little more with each seed."""
    for seed in seeds:
        for row, loss in losses.items():
            cells = (target, "style", name, "lora", 32, seed, row, loss + 0.01 * seed, 0.5)
            yield dict(zip(COLUMNS, map(str, cells), strict=True))


def test_shares():
    found = tables.read(lines("tuned", {"none": 2.0, "copy": 1.25, "retrained": 1.0}))
    of = tables.shares(found)
    assert len(of) == 3
    for by in of.values():
        assert by["none"] == 0 and by["retrained"] == 1
        assert by["copy"] == pytest.approx(0.75)
    # The next seed's loss is 0.01 more, the first's is 0.02 less than the third's.
    again = [of[key][tables.AGAIN] for key in sorted(of, key=lambda key: key.seed)]
    assert again == pytest.approx([0.99, 0.99, 1.02])


def test_the_distilled_target_has_no_ceiling_but_the_source():
    losses = {"none": 2.0, "copy": 0.5, "retrained": 1.0}
    (by,) = tables.shares(tables.read(lines("distilled", losses, [0]))).values()
    assert by["copy"] == pytest.approx(0.75) and by["retrained"] == pytest.approx(0.5)


def test_a_case_without_its_ends_has_no_share():
    assert not tables.shares(tables.read(lines("tuned", {"none": 2.0, "copy": 1.0})))


def test_two_seeds_say_nothing():
    losses = {"none": 2.0, "copy": 1.25, "retrained": 1.0}
    two = tables.read(lines("tuned", losses, [1, 2]))
    assert "| copy | - |" in tables.share_table(two, ["tuned"])
    assert tables.test_table(two).count("\n") == 1
    three = tables.read(lines("tuned", losses))
    assert "| copy | 0.750 ± 0.000 |" in tables.share_table(three, ["tuned"])


def test_the_noise_floor_is_between_retrainings():
    found = tables.read(lines("tuned", {"none": 2.0, "retrained": 1.0}))
    for key, rows in found.items():
        rows["retrained"]["error"] = 0.1 * key.seed  # 0.1, 0.2, 0.3: apart 0.1, 0.1, 0.2
    assert tables.measure_table(found, ["error"]).splitlines()[-1] == "| *noise floor* | 0.133 |"


def test_every_model_stands_in_the_table():
    about = [{"model": n, "loss": "1", "drift": "0.2", "seconds": "3"} for n in MODELS]
    assert tables.models_table(about).count("\n") == len(MODELS) + 1


def randomised(depth):
    """A fresh model, none of whose weights is zero."""
    fresh = build_model(depth)
    for parameter in fresh.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return fresh


@pytest.mark.parametrize("make", [Lora, Dora, Foura])
def test_what_is_trained_is_what_the_pack_moves(make, tmp_path):
    """The forward pass of training, and the file patched into the weights, agree."""
    torch.manual_seed(0)
    save_model(randomised(2), tmp_path / "model.safetensors")
    running = load_model(tmp_path / "model.safetensors").requires_grad_(False)
    trained = make(running, 4)
    for parameter in trained.parameters():
        parameter.data = (parameter.data + 0.05 * torch.randn(parameter.shape)).half().float()
    inputs = torch.randn(2, 16, 8, 8), torch.tensor([300.0, 800.0])
    prompt = {"context": torch.randn(2, 4, 64), "y": torch.randn(2, 64)}
    with torch.no_grad():
        without = running(*inputs, **prompt)
        with trained.on(running):
            wanted = running(*inputs, **prompt)
    trained.save(tmp_path / "lora.safetensors")
    core = load_checkpoint(tmp_path / "model.safetensors")
    lora = resolve(read_adapter_file(tmp_path / "lora.safetensors"), core)
    moved = transfer_resolved(lora, core, TransferSettings(mode="copy", threshold=0))
    with torch.no_grad(), patched(network_of(running).layers, core, moved.adapters):
        found = running(*inputs, **prompt)
    far = (wanted - without).norm()
    assert far > 0.05 * without.norm()
    assert (found - wanted).norm() < 5e-3 * far
    assert torch.equal(running(*inputs, **prompt), without)


def test_the_lesson_of_an_accelerator_is_drawn_without_it(monkeypatch, tmp_path):
    """The model that is asked for its own pictures may wear the LoRA already."""
    torch.manual_seed(0)
    save_model(randomised(1), tmp_path / "model.safetensors")
    monkeypatch.setattr(models, "path", lambda name: tmp_path / "model.safetensors")
    monkeypatch.setattr(tasks, "STEPS", tasks.FEW_STEPS)
    running = models.network("worn")
    lora = Lora(running, 4, alpha=4.0)
    for up in lora.up.values():
        up.data += torch.randn(up.shape)
    with lora.on(running):
        worn = loras.own_steps("worn", True)
        with_it = loras.FewStepsTask.sampled(running, 1.0, 96, 2**31)
    alone = loras.FewStepsTask.sampled(running, 1.0, 96, 2**31)
    assert not torch.allclose(with_it.latents, alone.latents, atol=0.01)
    assert torch.equal(worn.latents, alone.latents)
