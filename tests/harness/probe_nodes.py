"""Nodes that only the tests of the harness use; loaded by the real host as custom nodes."""

import time

from comfy.model_management import throw_exception_if_processing_interrupted


class ProbeSleep:
    """Waits in small steps, so that a test can cancel it in the middle."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 0.0, "max": 60.0})}}

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "ProLoRA/tests"

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            throw_exception_if_processing_interrupted()
            time.sleep(0.02)
        return {"ui": {"text": [f"slept {seconds} s"]}}


class ProbeRaise(ProbeSleep):
    """Raises what it is told to."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"message": ("STRING", {"default": "boom"})}}

    def run(self, message):
        raise ValueError(message)


NODE_CLASS_MAPPINGS = {"ProbeSleep": ProbeSleep, "ProbeRaise": ProbeRaise}
