"""Nodes of the network tests: what the pack's running models do in the host, as a prompt runs them.

Each returns figures as JSON; what is wrong in a figure is the test's to say.
"""

import builtins
import copy
import importlib
import json
import sys
from types import SimpleNamespace

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch

SIGMAS = (0.9, 0.6, 0.2)


def pack(module):
    """A module of the pack, as the host has loaded it."""
    host = next(name for name in sys.modules if name.endswith(".nodes.host"))
    return importlib.import_module(host.removesuffix("nodes.host") + module)


def relative(one, other):
    return float((one - other).norm() / other.norm())


def noised(count, *shape):
    random = torch.Generator().manual_seed(3)
    return torch.randn(count, *(shape or (16, 8, 8)), generator=random)


class Probe:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "positive": ("CONDITIONING",)}}

    def run(self, **inputs):
        host, errors = pack("nodes.host"), pack("prolora.errors")
        try:
            found = self.probe(host, **inputs)
        except errors.ProLoRAError as error:
            found = {"refused": str(error)}
        return {"ui": {"text": [json.dumps(found)]}}


class ProbeDenoised(Probe):
    """What a MODEL predicts: as a batch, one by one, and by the host's own samplers."""

    def probe(self, host, model, positive):
        network, prompts = host.network_of(model), host.prompts_of(positive)
        x, sigmas = noised(len(prompts)), torch.tensor(SIGMAS)[: len(prompts)]
        calls = []
        handle = model.model.diffusion_model.register_forward_hook(lambda *_: calls.append(1))
        batch = network.denoise(x, sigmas, prompts)
        batches = len(calls)
        handle.remove()
        singly = [
            network.denoise(x[i : i + 1], sigmas[i : i + 1], prompts[i : i + 1])
            for i in range(len(prompts))
        ]
        by_host = self.by_the_host(model, x, sigmas, positive)
        mixed = [prompts[0], shorter(prompts[1]), prompts[0]]
        apart = network.denoise(x, sigmas, mixed)
        scale = network.output_scale(sigmas)
        clean = torch.ones_like(x)
        return {
            "denoised": batch.tolist(),
            "type": str(batch.dtype),
            "batches": batches,
            "one by one": relative(torch.cat(singly), batch),
            "by the host": relative(batch, by_host),
            "of other lengths": [relative(apart[0], batch[0]), relative(apart[1], batch[1])],
            "output scale": scale.tolist(),
            "noised": network.noised(clean, x, sigmas)[:, 0, 0, 0].tolist(),
            "noise": x[:, 0, 0, 0].tolist(),
        }

    @staticmethod
    def by_the_host(model, x, sigmas, positive):
        conds = {"positive": comfy.sampler_helpers.convert_cond(positive)}
        conds = comfy.samplers.process_conds(model.model, x, conds, x.device, torch.zeros_like(x))
        pre_run = getattr(model, "pre_run", None)  # not in June 2024
        if pre_run is not None:
            pre_run()
        options = dict(model.model_options)
        found = comfy.samplers.calc_cond_batch(model.model, [conds["positive"]], x, sigmas, options)
        return found[0]


def shorter(prompt):
    """Of half as many tokens."""
    tensors = dict(prompt.tensors)
    tensors["cross_attn"] = tensors["cross_attn"][:, :2]
    return type(prompt)(tensors, prompt.values)


class ProbeWrongText(Probe):
    """A MODEL that is given text of another width, and weights that are broken."""

    @classmethod
    def INPUT_TYPES(cls):
        required = {"model": ("MODEL",), "positive": ("CONDITIONING",)}
        return {"required": {**required, "broken": ("BOOLEAN", {})}}

    def probe(self, host, model, positive, broken):
        network, prompts = host.network_of(model), host.prompts_of(positive)
        x, sigmas = noised(len(prompts)), torch.full((len(prompts),), 0.5)
        if broken:
            x[0] = float("nan")
        network.denoise(x, sigmas, prompts)
        return {}


class ProbeGradient(Probe):
    """The gradients of a LoRA beside one layer, and how the loss moves along them."""

    @classmethod
    def INPUT_TYPES(cls):
        required = {"model": ("MODEL",), "positive": ("CONDITIONING",)}
        return {"required": {**required, "layer": ("STRING", {})}}

    def probe(self, host, model, positive, layer):
        network, prompts = host.network_of(model), host.prompts_of(positive)
        x = noised(len(prompts), *self.shape(model))
        sigmas = torch.full((len(prompts),), 0.5)
        target = torch.zeros(1)
        mode = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        training = model.model.training
        calls = []
        with host.trainable(model):
            linear = network.layers[layer or self.linear_in_a_block(network)]
            out, into = linear.weight.shape
            random = torch.Generator().manual_seed(0)
            down = torch.randn(4, into, generator=random).div(into**0.5).requires_grad_()
            up = torch.randn(out, 4, generator=random).mul(0.1).requires_grad_()

            def beside(_, inputs, output):
                calls.append(1)
                added = inputs[0].to(down.dtype) @ down.T @ up.T
                return output + added.to(output.dtype)

            def loss():
                return (network.denoise(x, sigmas, prompts) - target).square().mean()

            handle = linear.register_forward_hook(beside)
            value = loss()
            kept = kept_values(value)
            value.backward()
            fired = len(calls)
            forgetful, blocks = self.computed_again(network, linear, loss, (up, down))
            slope = float(up.grad.square().sum() + down.grad.square().sum())
            step = 1e-3 / slope**0.5
            with torch.no_grad():
                ends = []
                for sign in (1, -1):
                    for factor in (up, down):
                        factor += sign * step * factor.grad
                    ends.append(float(loss()))
                    for factor in (up, down):
                        factor -= sign * step * factor.grad
            handle.remove()
        grads = {"up": up.grad, "down": down.grad}
        asked = [p for p in model.model.parameters() if p.requires_grad]
        return {
            "finite": all(bool(g.isfinite().all()) for g in grads.values()),
            "norms": {name: float(g.norm()) for name, g in grads.items()},
            "gradient": up.grad.flatten()[:5000].tolist(),
            "slope": slope**0.5,
            "measured": (ends[0] - ends[1]) / 2e-3,
            "fired": fired,
            "forgetful": forgetful,
            "blocks": blocks,
            "restored": mode == (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
            and model.model.training == training,
            "with gradients": len(asked),
            "kept": kept,
            "casts": sum(getattr(m, "comfy_cast_weights", False) for m in model.model.modules()),
            "left over": sum("forward" in vars(m) for m in model.model.modules()),
        }

    @staticmethod
    def computed_again(network, linear, loss, factors):
        """How far gradients are off where blocks are computed again; how many blocks are."""
        student, module = pack("prolora.recording.student"), SimpleNamespace(layer=linear)
        blocks = student.blocks_of(network.root, [module])
        before = [factor.grad for factor in factors]
        for factor in factors:
            factor.grad = None
        with pack("prolora.recording.forgetful").forgetful(blocks, network.again):
            loss().backward()
        off = [relative(factor.grad, grad) for factor, grad in zip(factors, before, strict=True)]
        for factor, grad in zip(factors, before, strict=True):
            factor.grad = grad
        return max(off), len(blocks)

    @staticmethod
    def shape(model):
        """Of the model's latents, from a small empty picture."""
        empty = torch.zeros(1, 16, 8, 8)
        return comfy.sample.fix_empty_latent_channels(model, empty).shape[1:]

    @staticmethod
    def linear_in_a_block(network):
        return next(
            key
            for key, layer in network.layers.items()
            if ".0." in key and len(layer.weight.shape) == 2 and "embed" not in key
        )


def kept_values(loss):
    """How many values are kept for the gradient, each counted once."""
    seen, nodes, sizes = set(), [loss.grad_fn], {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for tensor in (*saved, *getattr(node, "saved_tensors", ())):
            if type(tensor) in (torch.Tensor, torch.nn.Parameter):  # else it is quantised
                sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
    return sum(sizes.values())


class ProbeCast(Probe):
    """A copy of the MODEL whose layers cast their weights from fp16, or that has those values."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "convert"
    OUTPUT_NODE = False

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "in_float16": ("BOOLEAN", {})}}

    def convert(self, model, in_float16):
        config = model.model.model_config  # which cannot be copied
        patcher = model.clone()
        patcher.model = copy.deepcopy(model.model, {id(config): config})
        for layer in patcher.model.modules():
            if hasattr(layer, "comfy_cast_weights"):
                for name, parameter in layer._parameters.items():
                    if parameter is not None:
                        half = parameter.detach().half()
                        values = half if in_float16 else half.float()
                        layer._parameters[name] = torch.nn.Parameter(values, requires_grad=False)
                layer.comfy_cast_weights = in_float16
        return (patcher,)


class ProbeExpectedSize(Probe):
    """How large a recording of 12 samples was expected to be, and how large it is."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"source_lora": ("PROLORA_SOURCE",), "recording": ("PROLORA_RECORDING",)}
        }

    def probe(self, host, source_lora, recording):
        settings = pack("prolora.recording.record").RecordingSettings(levels=3, positions=64)
        expected_size = pack("prolora.recording.size").expected_size
        return [expected_size(source_lora, (16, 8, 8), 12, settings), recording.size]


class ProbeSeeds(Probe):
    """The seeds that Record Source LoRA makes of one, and whether torch and the host take them."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("STRING", {})}}

    def probe(self, host, seed):
        seeds = pack("nodes.record_lora").RecordSourceLora.seeds_of(int(seed))
        drawn = [
            comfy.sample.prepare_noise(torch.zeros(1, 4), number).tolist()
            for number in seeds.values()
        ]
        return {"seeds": list(map(str, seeds.values())), "drawn": drawn}


class ProbeFailing(Probe):
    """A copy of the MODEL that raises an error when it runs."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "convert"
    OUTPUT_NODE = False

    @classmethod
    def INPUT_TYPES(cls):
        required = {"model": ("MODEL",), "error": ("STRING", {}), "text": ("STRING", {})}
        return {"required": required}

    def convert(self, model, error, text):
        config = model.model.model_config
        patcher = model.clone()
        patcher.model = copy.deepcopy(model.model, {id(config): config})

        def fail(*_):
            raise getattr(builtins, error)(text)

        patcher.model.diffusion_model.register_forward_pre_hook(fail)
        return (patcher,)


class ProbeLoadable(Probe):
    """A MODEL with the LoRA of a source, as a recording has it applied."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    OUTPUT_NODE = False

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source_lora": ("PROLORA_SOURCE",), "model": ("MODEL",)}}

    def apply(self, source_lora, model):
        host, recording = pack("nodes.host"), pack("prolora.recording.loaded_source")
        loaded = host.model_from_graph(model, None, "loaded")
        lora = recording.loadable(source_lora, loaded)
        return (host.apply_lora(model, None, lora, 1.0, 0.0)[0],)


class ProbeLayers(Probe):
    """The layers of a MODEL and CLIP, against the weights of the pack's Model."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}, "optional": {"clip": ("CLIP",)}}

    def probe(self, host, model, clip=None):
        network = host.network_of(model)
        weights = host.model_from_graph(model, clip, "loaded")
        layers = dict(network.layers)
        found = {"model": len(layers), "encoded": 0}
        if clip is not None:
            text = host.text_network_of(clip)
            layers |= text.layers
            calls = []
            handles = [
                layer.register_forward_hook(lambda *_: calls.append(1))
                for key, layer in text.layers.items()
                if key.endswith("q_proj.weight")
            ]
            text.encode("a lighthouse")
            for handle in handles:
                handle.remove()
            found |= {"text": len(text.layers), "encoded": len(calls)}
        refs = {ref.key for ref in weights.key_map.values()}
        found["missing"] = sorted(
            key for key in refs - layers.keys() if len(weights.weights.shape(key)) > 1
        )
        found["other shapes"] = [
            key
            for key, layer in layers.items()
            if key in weights.weights and tuple(layer.weight.shape) != weights.weights.shape(key)
        ]
        return found


class ProbeConditions(Probe):
    """Prompts of a CONDITIONING and back, and what is refused."""

    def probe(self, host, model, positive):
        errors = pack("prolora.errors")
        pooled = positive[0][1]["pooled_output"]
        rich = [
            [positive[0][0], {**positive[0][1], "guidance": 3.5, "prolora_text": "a cat"}],
            [
                positive[0][0][:1],
                {"pooled_output": pooled[:1], "width": 8},
            ],
        ]
        prompts = host.prompts_of(rich)
        again = host.prompts_of(host.conditioning_of(prompts))
        same = all(
            a.text == b.text
            and a.values == b.values
            and a.tensors.keys() == b.tensors.keys()
            and all(torch.equal(a.tensors[key], b.tensors[key]) for key in a.tensors)
            for a, b in zip(prompts, again, strict=True)
        )
        refused = {}
        for key, value in {
            "control": object(),
            "mask": torch.ones(1, 8, 8),
            "area": (8, 8, 0, 0),
            "reference_latents": [torch.ones(1)],
            "start_percent": 0.5,
            "end_percent": 1.0,
            "strength": 1.0,
        }.items():
            try:
                host.prompts_of([[positive[0][0], {key: value}]])
                refused[key] = ""
            except errors.ProLoRAError as error:
                refused[key] = str(error)
        return {
            "count": len(prompts),
            "same": same,
            "texts": [prompt.text for prompt in prompts],
            "values": [dict(prompt.values) for prompt in prompts],
            "shapes": [list(prompts[0].tensors[k].shape) for k in ("cross_attn", "pooled_output")],
            "refused": refused,
        }


class ProbeSameText(Probe):
    """Whether each entry of a CONDITIONING is what the host's own node makes of a text."""

    @classmethod
    def INPUT_TYPES(cls):
        required = {"conditioning": ("CONDITIONING",), "clip": ("CLIP",), "texts": ("STRING", {})}
        return {"required": required}

    def probe(self, host, conditioning, clip, texts):
        encode = sys.modules["nodes"].NODE_CLASS_MAPPINGS["CLIPTextEncode"]().encode
        by_host = [encode(clip, text)[0][0] for text in texts.split("\n")]
        return {
            "texts": [others["prolora_text"] for _, others in conditioning],
            "same": [
                torch.equal(ours[0], theirs[0])
                and torch.equal(ours[1]["pooled_output"], theirs[1]["pooled_output"])
                for ours, theirs in zip(conditioning, by_host, strict=True)
            ],
            "first like second": torch.equal(conditioning[0][0], conditioning[1][0]),
        }


class ProbeSampled(Probe):
    """Latents by the pack's sample, and the levels of the schedule."""

    @classmethod
    def INPUT_TYPES(cls):
        required = {"model": ("MODEL",), "positive": ("CONDITIONING",)}
        return {"required": {**required, "latent": ("LATENT",)}}

    def probe(self, host, model, positive, latent):
        told = []
        settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler"}
        found = host.sample(
            model,
            positive,
            positive,
            latent,
            scheduler="simple",
            callback=lambda *progress: told.append(progress),
            **settings,
        )
        singly = host.sample(
            model,
            host.conditioning_of(host.prompts_of(positive)),
            positive,
            latent,
            scheduler="simple",
            **settings,
        )
        levels = host.levels(model, 8, torch.Generator().manual_seed(0))
        return {
            "latents": model.model.process_latent_out(found).tolist(),
            "entries": relative(singly, found),
            "told": told,
            "levels": levels.tolist(),
            "format": host.latent_format(model),
            "offered": ["euler" in host.samplers(), "simple" in host.schedulers()],
        }


NODE_CLASS_MAPPINGS = {
    name: thing
    for name, thing in list(globals().items())
    if isinstance(thing, type) and issubclass(thing, Probe) and thing is not Probe
}
