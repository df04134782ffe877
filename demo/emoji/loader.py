"""The node that loads the demo's checkpoints of any depth.

It imports the host inside its functions: the training imports this package where no server runs.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from .depth import count_blocks, set_depth

PREFIX = "model.diffusion_model."


class EmojiLoader:
    """A checkpoint to a MODEL: the host's SD3, with as many blocks as the file has."""

    CATEGORY = "ProLoRA demo"
    DESCRIPTION = (
        "Loads a checkpoint of the demo with as many blocks as it has. ComfyUI's own loader reads "
        "the number of blocks off the width, so it refuses a pruned or deepened SD3."
    )
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        import folder_paths

        tooltip = {"tooltip": "A file of demo/models, in ComfyUI's checkpoints folder."}
        return {"required": {"ckpt_name": (folder_paths.get_filename_list("checkpoints"), tooltip)}}

    def load(self, ckpt_name: str) -> tuple[Any]:
        import folder_paths

        path = folder_paths.get_full_path("checkpoints", ckpt_name)
        if path is None:
            raise FileNotFoundError(f"{ckpt_name} is not in ComfyUI's checkpoints folder")
        return (load_checkpoint(Path(path)),)


def load_checkpoint(path: Path) -> Any:
    """Return the host's ModelPatcher: loaded as by the host's loader, but for the number of blocks.

    Raises:
        ValueError: the file is no SD3 model, or has a gap in its blocks.
    """
    import comfy.model_detection
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    state = load_file(path)
    try:
        count = count_blocks(state)
    except ValueError as error:
        raise ValueError(f"{path.name} is no checkpoint of this demo: {error}") from error
    config = comfy.model_detection.model_config_from_unet(state, PREFIX)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    supported = config.supported_inference_dtypes
    dtype = management.unet_dtype(supported_dtypes=supported)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))

    model = config.get_model(state, PREFIX)
    set_depth(model.diffusion_model, count)
    config.unet_config["num_blocks"] = count  # later hosts derive diffusers' LoRA keys from it
    model.load_model_weights(state, PREFIX)
    return ModelPatcher(model.to(offload), load_device=device, offload_device=offload)
