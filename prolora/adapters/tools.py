"""Which tool wrote a file, and what a file is that is no LoRA: guessed, for messages only."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ..errors import ProLoRAError


@dataclass(frozen=True)
class Tool:
    """A pattern for one line of the header (`name=value`), and one for a key; "" matches none."""

    name: str
    header: str = ""
    key: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of file that ProLoRA does not read, a pattern for its keys, and what to do."""

    name: str
    key: str
    advice: str


# Headers tell more than keys, so they are asked first; in either, the first row that matches wins.
TOOLS = (
    Tool("ProLoRA", r"prolora_version="),
    Tool("ai-toolkit", r"software=.*ai-toolkit"),
    Tool("OneTrainer", r"ot_(branch|revision|config)=", r"lora_transformer_|bundle_emb\."),
    Tool("SimpleTuner", r"lycoris_config=", r"transformer\.base_model\.model\."),
    Tool(
        "LyCORIS",
        r"ss_network_module=.*lycoris",
        r"lycoris_|(?!oft_unet_).*\.(hada_w|lokr_w|oft_blocks|b1\.)",
    ),
    Tool(
        "musubi-tuner",
        r"ss_network_module=(musubi_tuner\..*|networks\.(lokr|loha|lora_(wan|framepack|"
        r"flux_kontext|flux_2|qwen_image|hv_1_5|zimage|kandinsky|krea2|ideogram4|hidream))\w*$)|"
        r"modelspec\.implementation=.*(Wan-Video|HunyuanVideo|FramePack|Qwen-Image)",
        r".*\.oft_coft_metadata$",
    ),
    Tool(
        "kohya's sd-scripts",
        r"ss_(network_module|sd_scripts_commit_hash|sd_model_name)=",
        r"oft_unet_",
    ),
    Tool("diffusers", r"\w*lora_adapter_metadata="),
    Tool("PEFT", key=r"(unet\.)?base_model\.model\."),
    Tool("DiffSynth", key=r"pipe\.|(?!.*diffusion_model).*\.lora_[AB]\.default\.weight"),
    Tool("kohya's sd-scripts or a tool of the same naming", key=r"lora_(unet|te\d?)_"),
    Tool("diffusers before 0.20", key=r".*(_lora\.(up|down)\.weight|\.lora_linear_layer\.)"),
    Tool("diffusers", key=r"(unet|transformer|text_encoder\w*)\..*\.lora_[AB]\.weight"),
    Tool("XLabs' Flux trainer", key=r".*\.processor\.(qkv|proj)_lora[12]?\."),
    Tool("ComfyUI, ai-toolkit or diffusion-pipe", key=r"diffusion_model\..*\.(lora_|diff)"),
)

# How a parameter's name begins -> the method of PEFT that it is of, which nothing here reads. A few
# of these hold ordinary LoRA keys as well, which mean something else there.
_PEFT_METHODS = {
    "adamss": "AdaMSS",
    "beft": "BEFT",
    "bone": "Bone",
    "c3a": "C3A",
    "deft": "DEFT",
    "delora": "DeLoRA",
    "fourierft": "FourierFT",
    "frod": "FRoD",
    "glora": "GLoRA in PEFT's form",
    "gralora": "GraLoRA",
    "hira": "HiRA",
    "hra": "HRA",
    "lily": "Lily",
    "ln_tuning": "LN Tuning",
    "lora_E": "AdaLoRA",
    "lora_diag": "KaSA",
    "miss": "MiSS",
    "osf": "OSF",
    "peanut": "PEANuT",
    "poly": "Poly",
    "psoft": "PSOFT",
    "randlora": "RandLoRA",
    "road": "RoAd",
    "shadow": "Shadow",
    "shira": "SHiRA",
    "supertuning": "Super Tuning",
    "tinylora": "TinyLoRA",
    "trainable_tokens": "trainable tokens",
    "unilora": "Uni-LoRA",
    "vblora": "VB-LoRA",
    "vera": "VeRA",
    "pvera": "PVeRA",
    "waveft": "WaveFT",
}
ADAPTERS = tuple(
    Kind(
        f"{method}, written by PEFT",
        rf".*\.{start}(_|$)",
        "ProLoRA does not read this family. Merge it into its base model with PEFT "
        "(merge_and_unload), and extract a LoRA from the two.",
    )
    for start, method in _PEFT_METHODS.items()
)
# Refused although some of its keys are those of a LoRA.
UNREADABLE = (
    *ADAPTERS,
    Kind(
        "a control LoRA of Flux",
        r".*\.norm\.(key|query)_norm\.scale$",
        "ComfyUI renames its keys first: use the nodes in ComfyUI.",
    ),
    Kind(
        "a Flux LoRA of XLabs' trainer or USO",
        r".*\.processor\.(qkv|proj)_lora[12]\.",
        "Convert it to kohya's naming first; for USO, use the nodes in ComfyUI.",
    ),
)
_AS_LORA = "Choose a LoRA file; this one goes into a loader of its own."
OTHER_FILES = (
    Kind("a Control-LoRA", r"lora_controlnet", _AS_LORA),
    Kind("a ControlNet-LLLite", r"lllite_", _AS_LORA),
    Kind("a ControlNet", r"(control_model\.)?zero_convs\.|control_model\.|controlnet_", _AS_LORA),
    Kind("an IP-Adapter", r"ip_adapter\.|image_proj\.", _AS_LORA),
    Kind("a T2I-Adapter", r"(adapter\.)?body\.\d+\.(block|resnets|in_conv|down_opt)", _AS_LORA),
    Kind("an embedding", r"(emb_params|string_to_param.*|clip_[lg]|t5xxl)$", _AS_LORA),
    Kind("a hypernetwork", r"\d+\.[01]\.linear\.", _AS_LORA),
    Kind("a VAE", r"(encoder|decoder)\.(conv_in|mid|mid_block|down|up)\.", _AS_LORA),
)
CHECKPOINT = Kind(
    "a checkpoint",
    r"model\.diffusion_model\.|first_stage_model\.|conditioner\.|cond_stage_model\.|"
    r"(double_blocks|joint_blocks|input_blocks|transformer_blocks|down_blocks)\.\d.*\.weight$",
    "Choose a LoRA file, one that was trained on it.",
)


def tool_of(keys: Iterable[str], metadata: Mapping[str, str]) -> str:
    """The tool that a file seems to come from, or ""."""
    header = [f"{name}={value}" for name, value in metadata.items()]
    return _first(header, "header") or _first(list(keys), "key")


def kind_of(
    keys: Iterable[str], kinds: tuple[Kind, ...] = (*UNREADABLE, *OTHER_FILES, CHECKPOINT)
) -> Kind | None:
    """What a file is that ProLoRA does not read; None for one that no row fits."""
    lines = list(keys)
    for kind in kinds:
        pattern = re.compile(kind.key)
        if any(pattern.match(line) for line in lines):
            return kind
    return None


def refuse_file(name: str, keys: Collection[str], unknown: Sequence[str], tool: str) -> NoReturn:
    """Raises the error for a file that is no LoRA, or one of a kind that nothing here reads."""
    kind = kind_of(keys)
    known = f"{len(keys) - len(unknown)} of its {len(keys)} keys"
    example = f" (unknown is {unknown[0]})" if unknown else ""
    guess = f"It seems to come from {tool}. " if tool else ""
    advice = "Choose a LoRA file, or export this one again as a LoRA."
    if kind is not None:
        guess, advice = f"It seems to be {kind.name}. ", kind.advice
    raise ProLoRAError(f"{name} is no LoRA: ProLoRA knows {known}{example}. {guess}{advice}")


def _first(lines: list[str], part: str) -> str:
    for tool in TOOLS:
        pattern: str = getattr(tool, part)
        if pattern and any(re.match(pattern, line) for line in lines):
            return tool.name
    return ""
