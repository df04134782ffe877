"""Refinement: the loss that it goes down on, what it changes, and what it never does."""

from dataclasses import replace

import pytest
import torch

from prolora.adapters import FullDifference, LoraAdapter
from prolora.adapters.dora import DoraAdapter
from prolora.errors import ProLoRAError
from prolora.recording.record import RecordingSettings
from prolora.recording.refine import RefineSettings, _batches, _split, refine
from prolora.recording.student import attached, free

from .running_models import NAMES, drifted, lora_file, model_of, network_of, recorded, source
from .small_models import delta, file_of, random_weight
from .strategies import relative_error

FILE = lora_file(scale=0.3)
RECORDING = recorded(FILE)
TARGET = drifted(0.2)
STEPS = RefineSettings(steps=12, batch=6, own=0.0)


def refined(adapters=FILE.adapters, target=TARGET, recording=RECORDING, settings=STEPS, **more):
    return refine(adapters, model_of(target, "B"), network_of(target), recording, settings, **more)


def loss(adapters, own: float = 0.0, target=TARGET, recording=RECORDING) -> float:
    """On all latents: the mean squared error of the velocity, by this test's own arithmetic."""
    latents, sigmas = recording.latents.float(), recording.sigmas
    everyone = torch.arange(len(recording))
    tokens = torch.cat([p.tensors["cross_attn"] for p in recording.prompts_at(everyone)])
    bare = target(latents, sigmas, tokens)
    modules = free(adapters, model_of(target), network_of(target).layers)
    with attached(modules), torch.no_grad():
        velocity = target(latents, sigmas, tokens)
    wanted = recording.derivatives.float()
    wanted = wanted + own * (bare - recording.derivatives_without.float())
    return float((velocity - wanted).square().mean())


@pytest.mark.parametrize("own", [0.0, 0.5])
def test_the_loss_goes_down(own):
    found = refined(settings=replace(STEPS, own=own))
    before, after = loss(FILE.adapters, own), loss(found.adapters, own)
    assert after < 0.9 * before
    assert [steps for steps, _ in found.held_out] == [0, 2, 5, 7, 10, 12]
    assert found.held_out[-1][1] < found.held_out[0][1]
    assert len(found.losses) == 12
    assert not found.left_out


def test_what_is_kept_of_the_targets_own_is_what_it_says():
    """A recording whose source is the target gives the same with any share."""
    same = recorded(FILE)
    few = replace(STEPS, steps=3)
    without = refined(target=source(), recording=same, settings=few)
    with_all = refined(target=source(), recording=same, settings=replace(few, own=1.0))
    assert with_all.held_out[0][1] == pytest.approx(without.held_out[0][1], abs=1e-6)


def test_the_result_is_the_best_on_what_was_kept_apart():
    found = refined(settings=replace(STEPS, rate=0.9))  # too large to get anywhere
    best = min(found.held_out, key=lambda seen: seen[1])
    assert found.best == best[0]
    if not found.best:
        assert found.adapters == FILE.adapters
    worse = refined(target=source(), settings=replace(STEPS, rate=0.9))
    assert worse.best == 0
    assert worse.adapters == FILE.adapters


def test_the_same_weights_on_both_sides_are_made_no_worse():
    found = refined(target=source())
    after = loss(found.adapters, target=source())
    assert after <= loss(FILE.adapters, target=source()) + 1e-7
    assert found.held_out[0][1] < 1e-5 < loss(FILE.adapters)  # float16


def test_a_seed_gives_the_same_result_again():
    a, b = (refined(settings=replace(STEPS, steps=3, seed=5)) for _ in range(2))
    other = refined(settings=replace(STEPS, steps=3, seed=6))
    assert all(torch.equal(x.up, y.up) for x, y in zip(a.adapters, b.adapters, strict=True))
    assert a.losses == b.losses != other.losses


def test_no_steps_change_nothing():
    found = refined(settings=replace(STEPS, steps=0))
    assert found.adapters == FILE.adapters
    assert found.best == 0
    assert len(found.held_out) == 1


def test_every_latent_comes_before_one_comes_again():
    sample_of = torch.arange(18) // 2
    taught, apart = _split(sample_of, STEPS)
    assert len(apart) == 2
    assert len(sample_of[apart].unique()) == 1  # with all of its levels
    assert sorted([*taught.tolist(), *apart.tolist()]) == list(range(18))
    drawn = torch.cat(list(_batches(taught, replace(STEPS, steps=8, batch=4))))
    assert sorted(drawn[:16].tolist()) == sorted(drawn[16:].tolist()) == sorted(taught.tolist())


def test_a_model_that_predicts_something_else_learns_that():
    """One that puts out x0 itself: its loss is that of x0."""
    network = replace(network_of(TARGET), output_scale=torch.ones_like)
    found = refine(FILE.adapters, model_of(TARGET), network, RECORDING, replace(STEPS, steps=0))
    ((_, apart),) = found.held_out
    velocity = refined(settings=replace(STEPS, steps=0)).held_out[0][1]
    assert apart < 0.6 * velocity  # sigma^2 is below 1


# --- the student --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_free_module_answers_as_the_merged_weight_does(name):
    (adapter,) = lora_file(name, rank=3).adapters
    module, sigma = drifted(0.0), torch.tensor([0.5])
    latents, tokens = random_weight((1, 4, 8, 8)), random_weight((1, 3, 6))
    modules = free((adapter,), model_of(module), network_of(module).layers)
    assert len(modules) == 1
    before = module(latents, sigma, tokens)
    with attached(modules):
        got = module(latents, sigma, tokens)
    assert torch.equal(module(latents, sigma, tokens), before)
    key, part = NAMES[name]
    weight = network_of(module).layers[key].weight
    rows = weight if part is None else weight.narrow(0, part.start, part.length)
    rows += torch.from_numpy(delta(adapter)).float().reshape(rows.shape)
    wanted = module(latents, sigma, tokens)
    assert (got - wanted).norm() < 1e-3 * (wanted - before).norm()
    made = modules[0].made()
    assert relative_error(delta(made), delta(adapter)) < 1e-5
    assert made.up.shape == adapter.up.shape
    assert made.down.shape == adapter.down.shape


def test_what_is_not_refined_stays_and_is_named():
    proj, conv, _, level = lora_file("proj", "conv_in", "text", "level").adapters
    assert isinstance(proj, LoraAdapter)
    dora = DoraAdapter(proj, torch.ones(16, 1), 0)
    strange = conv.renamed("nowhere")
    whole = FullDifference("text", 0.1 * random_weight((16, 6)))
    found = refined((dora, strange, whole, level), settings=replace(STEPS, steps=2))
    assert found.left_out == {
        "proj": "a DoRA is not refined",
        "nowhere": "not in the target B",
        "text": "a full difference is not refined",
    }
    assert found.adapters[:3] == (dora, strange, whole)
    with pytest.raises(ProLoRAError, match="Nothing of this LoRA can be refined: proj: a DoRA"):
        refined((dora,))


def test_a_lora_of_nothing_learns_too():
    empty = [replace(a, up=torch.zeros_like(a.up), parts={}) for a in FILE.adapters]
    found = refined(empty)
    assert loss(found.adapters) < 0.95 * loss(empty)


def test_what_is_left_out_must_be_in_the_network():
    """Else the others learn to take its place, and then both are applied."""
    whole = FullDifference("proj", 0.3 * random_weight((16, 16)))
    rest = tuple(a for a in FILE.adapters if a.name != "proj")
    exact = drifted(0.0)
    with_whole = drifted(0.0)
    with_whole.blocks[0].proj.weight += whole.diff
    mixed = recorded(file_of(*rest), module=with_whole)
    mixed = replace(mixed, derivatives_without=answers_of(exact, mixed))
    many = replace(STEPS, steps=30, rate=0.05)
    arguments = ((whole, *rest), model_of(exact, "B"))
    wrong = refine(*arguments, network_of(exact), mixed, many)
    right = refine(*arguments, network_of(with_whole), mixed, many, bare=network_of(exact))
    assert wrong.best > 0  # it seems to gain
    assert loss(wrong.adapters[1:], target=with_whole, recording=mixed) > 0.1
    assert loss(right.adapters[1:], target=with_whole, recording=mixed) < 1e-5
    assert right.adapters[0] is whole


def answers_of(module, recording) -> torch.Tensor:
    everyone = torch.arange(len(recording))
    tokens = torch.cat([p.tensors["cross_attn"] for p in recording.prompts_at(everyone)])
    return module(recording.latents.float(), recording.sigmas, tokens)


def test_a_layer_that_does_not_run_holds_up_nothing():
    target = drifted(0.2)
    idle = torch.nn.Linear(6, 16)
    network = network_of(target)
    network = replace(network, layers={**network.layers, "blocks.0.text.weight": idle})
    found = refine(FILE.adapters, model_of(target, "B"), network, RECORDING, STEPS)
    assert found.left_out == {"text": "its layer did not run"}
    assert found.held_out[-1][1] < 0.95 * found.held_out[0][1]


def test_gradients_beyond_half_precision_make_the_scale_smaller():
    """As fp16 layers do: what is above their range comes back as infinity."""

    class Half(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.where(gradient.abs() > 0.02, torch.inf, gradient)

    network = network_of(TARGET)

    def half(latents, sigmas, prompts):
        found = network.denoise(latents, sigmas, prompts)
        return Half.apply(found) if torch.is_grad_enabled() else found

    worse = replace(network, denoise=half)
    found = refine(FILE.adapters, model_of(TARGET, "B"), worse, RECORDING, STEPS)
    assert 0 < found.skipped < 8
    assert found.held_out[-1][1] < found.held_out[0][1]


# --- what stops it ------------------------------------------------------------------------------


def test_hooks_are_gone_where_a_user_cancels():
    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int, of: str) -> None:
        if of == "refining" and done == 2:
            raise Cancelled

    before = {key: tensor.clone() for key, tensor in TARGET.state_dict().items()}
    with pytest.raises(Cancelled):
        refined(progress=cancel)
    for part in TARGET.modules():
        assert not part._forward_hooks
        assert "forward" not in vars(part)
    assert all(torch.equal(before[key], tensor) for key, tensor in TARGET.state_dict().items())


def test_a_prediction_that_is_no_number_tells_its_sigma():
    network = network_of(TARGET)

    def broken(latents, sigmas, prompts):
        found = network.denoise(latents, sigmas, prompts)
        return torch.where((sigmas > 0.9)[:, None, None, None], torch.nan, found)

    worse = replace(network, denoise=broken)
    for own in (0.0, 0.5):
        with pytest.raises(ProLoRAError, match=r"at sigma 0\.9\d*(, 0\.9\d*)* holds NaN"):
            refine(
                FILE.adapters,
                model_of(TARGET),
                worse,
                RECORDING,
                replace(STEPS, own=own),
            )


@pytest.mark.parametrize(
    "choices",
    [{"steps": -1}, {"batch": 0}, {"rate": 0.0}, {"rate": 1.0}, {"own": -0.1}, {"own": 2}],
)
def test_settings_out_of_range(choices):
    with pytest.raises(ProLoRAError):
        RefineSettings(**choices)


def test_a_recording_of_one_latent():
    one = recorded(file_of(*FILE.adapters), RecordingSettings(levels=1, positions=9))
    small = replace(one, sample_of=torch.zeros_like(one.sample_of))
    with pytest.raises(ProLoRAError, match="Record more samples"):
        refined(recording=small)
