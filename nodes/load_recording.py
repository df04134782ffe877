"""Load Recording: a file of Save Recording, from output/recordings or from beside the LoRAs."""

from ..prolora.errors import ProLoRAError
from ..prolora.recording.file import read_recording
from ..prolora.recording.text import describe
from . import host


class LoadRecording:
    CATEGORY = "loaders/ProLoRA"
    DESCRIPTION = "Reads a recording. It stands for the source: no checkpoint is needed any more."
    RETURN_TYPES = ("PROLORA_RECORDING", "STRING")
    RETURN_NAMES = ("recording", "info")
    OUTPUT_TOOLTIPS = (
        "Connect to Load Source LoRA, ProLoRA Transfer and Refine Transferred LoRA.",
        "What was recorded, and how.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "recording_name": (
                    host.recording_names(),
                    {
                        "tooltip": "A recording in output/recordings or its subfolders, or one "
                        "that was put beside its LoRA into the loras folder."
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, recording_name):
        """What tells one content of the file from another."""
        try:
            found = host.recording_path(recording_name).stat()
        except (ProLoRAError, OSError):  # which load says better
            return ""
        return f"{found.st_mtime_ns} {found.st_size}"

    def load(self, recording_name):
        recording = read_recording(host.recording_path(recording_name))
        info = describe(recording)
        host.say(info)
        return {"ui": {"text": [info]}, "result": (recording, info)}
