"""Load Recording: a file of Save Recording, from output/recordings or from beside the LoRAs."""

from ..prolora.recording.file import read_recording
from ..prolora.recording.text import describe
from . import host
from .files_seen import SEEN, ReadsFiles


class LoadRecording(ReadsFiles):
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("open recording", "load calibration")
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
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def load(self, recording_name, unique_id=""):
        path = host.recording_path(recording_name)
        SEEN.note(unique_id, [path])
        recording = read_recording(path)
        info = describe(recording)
        info = host.say(info)
        return {"ui": {"text": [info]}, "result": (recording, info)}
