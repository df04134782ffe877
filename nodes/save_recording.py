"""Save Recording: a file that stands for the source and its checkpoint."""

from ..prolora.recording.file import SUFFIX, write_recording
from . import host


class SaveRecording:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("save calibration", "export recording")
    DESCRIPTION = (
        "Saves a recording into the output folder. Load Recording lists output/recordings and the "
        "loras folder."
    )
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "recording": ("PROLORA_RECORDING", {"tooltip": "From Record Source LoRA."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "recordings/ProLoRA",
                        "tooltip": "Name of the file in the output folder. Keep recordings/ in "
                        "front, where Load Recording finds it, or move the file beside its LoRA. A "
                        "number is added, so nothing is overwritten.",
                    },
                ),
            },
        }

    def save(self, recording, filename_prefix):
        path = host.write_new(
            filename_prefix, lambda path: write_recording(recording, path, overwrite=False), SUFFIX
        )
        size = path.stat().st_size / 2**20
        return {"ui": {"text": [f"{host.saved_to(path)} ({size:.1f} MB)"]}}
