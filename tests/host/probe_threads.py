"""Nodes that look at the threads of a job: Cancel in the middle, and weights read by many."""

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event, enumerate

import torch


def pack(module):
    """A module of the pack, as the host has loaded it."""
    host = next(name for name in sys.modules if name.endswith(".nodes.host"))
    return importlib.import_module(host.removesuffix("nodes.host") + module)


def ours():
    return sorted(t.name for t in enumerate() if t.name.startswith("prolora"))


_SEEN = []  # whether Cancel was seen while a piece was at work


class ProbeLongModules:
    """Two pieces of work at once, which end when Cancel was seen, or after a minute."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "work"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"salt": ("INT", {"default": 0})}}

    def work(self, salt):
        threads, progress = pack("prolora.threads"), pack("nodes.host").Progress()
        cancelled = Event()

        def look(item):
            try:
                progress(0, 2, f"a long module {item}")
            except BaseException:
                cancelled.set()
                raise

        def until_cancelled(item):
            _SEEN.append(cancelled.wait(60))

        list(threads.in_threads((0, 1), until_cancelled, look, threads.Limits(2)))
        return {}


class ProbeThreads:
    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"salt": ("INT", {"default": 0})}}

    def tell(self, salt):
        seen = [str(one) for one in _SEEN]
        _SEEN.clear()
        return {"ui": {"text": [" ".join(seen), " ".join(ours())]}}


class ProbeReadByMany:
    """Whether every weight of a MODEL has the same bits when eight threads read all of them."""

    CATEGORY = "ProLoRA/tests"
    RETURN_TYPES = ()
    FUNCTION = "read"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def read(self, model):
        weights = pack("nodes.host.loaded_model").PatchedModelWeights([model])
        inference = torch.is_inference_mode_enabled()
        keys = sorted(weights)
        alone = {key: weights.read(key).clone() for key in keys}

        def differ(start):
            """Each thread begins elsewhere."""
            with torch.inference_mode(inference):
                order = [*keys[start:], *keys[:start]]
                return [key for key in order if not torch.equal(weights.read(key), alone[key])]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(differ, range(0, len(keys), max(len(keys) // 16, 1))))
        return {"ui": {"text": [str(len(keys)), " ".join({key for one in found for key in one})]}}


NODE_CLASS_MAPPINGS = {
    "ProbeLongModules": ProbeLongModules,
    "ProbeThreads": ProbeThreads,
    "ProbeReadByMany": ProbeReadByMany,
}
