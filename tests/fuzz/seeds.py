"""Small files to begin with, made by code; and the models beside them."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save

from prolora.adapters import lora_state_dict
from prolora.adapters.lora_list import LoraNames
from prolora.adapters.suffixes import split_key
from prolora.batch.manifest import Choices
from prolora.batch.table import COLUMNS as RESULTS
from prolora.files.cache import FileCache
from prolora.files.kept_on_disk import KeptOnDisk
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.recording.file import write_recording
from tests.core import trainers_dora, trainers_lora, trainers_oft  # noqa: F401  # they fill CASES
from tests.core.checkpoints import SD3, SD15
from tests.core.running_models import lora_file, recorded
from tests.core.small_models import drifted, random_lora, random_weight
from tests.core.trainers import CASES, Case

CPU = torch.device("cpu")
KEY = "0123456789abcdef"
NAMES = LoraNames(("a.safetensors", "b 2.safetensors", "sub/a.safetensors", "ü.safetensors"))
COLUMNS = ("lora", "source", "target", "out", *Choices.__dataclass_fields__, *RESULTS)
MODEL_SUFFIXES = (
    *(".weight", ".bias", ".comfy_quant", ".weight_scale", ".scale_weight", ".weight_scale_2"),
    *(".qweight", ".weight.absmax", ".weight_scale_inv", ".scale_input", ".pre_quant_scale"),
)
QUANTISED_WORDS = (
    *("format", "float8_e4m3fn", "int8_tensorwise", "mxfp8", "nvfp4", "convrot", "params"),
    *("convrot_groupsize", "layers", "_quantization_metadata", "convrot_w4a4"),
)
PEFT_WORDS = (
    *(
        "peft_type",
        "LORA",
        "LOHA",
        "LOKR",
        "OFT",
        "BOFT",
        "r",
        "lora_alpha",
        "alpha",
        "coft",
        "eps",
    ),
    *(
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "init_lora_weights",
        "block_share",
    ),
    *("num_cayley_neumann_terms", "use_cayley_neumann", "fan_in_fan_out", "peft_version", "mid"),
)
METADATA_WORDS = (
    *("lora_adapter_metadata", "transformer.r", "transformer.lora_alpha", "ss_base_model_version"),
    *("ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_tag_frequency", "name"),
    *("modelspec.architecture", "modelspec.title", "ot_config", "base_model_name", "ss_v2"),
    *("prolora_target", "prolora_source", "prolora_move_1_source", "ss_network_module"),
    *("ss_network_dim", "ss_network_alpha", *PEFT_WORDS),
)
PAIR_WORDS = ("pairs", "linear", "m0", "blocks.0", "text_encoder", "diffusion_model", "m1.m2")
RECORDING_SUFFIXES = ("latents", "sigmas", ".proj", ".cross_attn", "next_sigmas", "noising")
RECORDING_WORDS = ("prompts", "values", "source", "shapes", "names", "settings", "left_out")


def _written(write: Callable[[Path], object], name: str = "x.safetensors") -> bytes:
    """What a function writes into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def _cases() -> Iterator[Case]:
    """Of every family and tool, one of each set of roles and shapes."""
    seen = set()
    for tools in CASES.values():
        for cases in tools.values():
            for case in cases():
                shapes = {key.rpartition(".")[2]: t.shape for key, t in case.tensors.items()}
                kind = (*sorted(shapes.items()), case.weight.shape)
                if kind not in seen and case.weight.numel() < 5000:
                    seen.add(kind)
                    yield case


METADATA = {
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_sd_model_name": "a.safetensors",
    "ss_sd_model_hash": "31e35c80",
    "ss_new_sd_model_hash": "ab" * 32,
    "ss_tag_frequency": json.dumps({"10_cat": {"cat": 10, "a dog": 3}}),
    "ss_network_dim": "4",
    "ss_network_module": "networks.lora",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    "modelspec.title": "Cat",
    "sshs_model_hash": "cd" * 32,
    "ot_config": json.dumps({"base_model_name": "some/model"}),
    "lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8}),
    "prolora_target": "b.safetensors (SDXL)",
    "prolora_move_1_target": "a.safetensors (SDXL)",
}


@cache
def adapters() -> tuple[bytes, ...]:
    """LoRA files of all families, each alone, some mixed, and one with a header."""
    found = [dict(case.tensors) for case in _cases()]
    mixed = [{**found[i], **found[-1 - i]} for i in range(0, len(found), 7)]
    lora = lora_state_dict([random_lora("transformer.mid", (24, 16))])
    files = [save(_apart(tensors)) for tensors in (*found, *mixed)]
    return (*files, save(_apart(lora), METADATA))


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}


@cache
def pairs_of_models() -> tuple[tuple[Model, Model], ...]:
    """A source and a target for each shape of weight, under the names of the adapters."""
    shapes: dict[torch.Size, dict[str, torch.Tensor]] = {}
    for case in _cases():
        for key in case.tensors:
            split = split_key(key)
            if split is not None:
                shapes.setdefault(case.weight.shape, {})[split[0]] = case.weight
    return tuple((_model(weights), _model(weights, 0.3)) for weights in shapes.values())


def _model(weights: Mapping[str, torch.Tensor], drift: float = 0.0) -> Model:
    tensors = {f"{name}.weight": drifted(w, drift) if drift else w for name, w in weights.items()}
    names = {name: WeightRef(f"{name}.weight") for name in weights}
    return Model("B" if drift else "A", "SDXL", StateDictWeights(tensors), names)


def headers() -> Iterator[bytes]:
    yield json.dumps(METADATA).encode()
    for key, value in METADATA.items():
        yield json.dumps({key: value}).encode()


@cache
def peft_weights() -> tuple[dict[str, torch.Tensor], ...]:
    """Of each type, a module."""
    name = "base_model.model.mid"
    pair = {".lora_A.weight": (4, 16), ".lora_B.weight": (24, 4)}
    loha = {
        f".hada_w{i}_{side}": (24, 4) if side == "a" else (4, 16) for i in "12" for side in "ab"
    }
    lokr = {".lokr_w1": (4, 4), ".lokr_w2_a": (6, 2), ".lokr_w2_b": (2, 4)}
    families = (
        pair,
        loha,
        lokr,
        {".oft_R.weight": (4, 6)},
        {".boft_R": (1, 4, 4, 4), ".boft_s": (24, 1)},
    )
    return tuple(
        {name + end: 0.1 * random_weight(shape) for end, shape in family.items()}
        for family in families
    )


def peft_configs() -> Iterator[bytes]:
    common = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["mid"]}
    yield json.dumps(
        {
            **common,
            "rank_pattern": {"^mid$": 4, "other.*": 2},
            "alpha_pattern": {"mid": 16},
            "use_rslora": True,
            "init_lora_weights": True,
            "base_model_name_or_path": "some/model",
            "peft_version": "0.18.0",
        }
    ).encode()
    for kind in ("LOHA", "LOKR"):
        yield json.dumps({"peft_type": kind, "r": 4, "alpha": 8, "rank_pattern": {}}).encode()
    yield json.dumps({"peft_type": "OFT", "coft": True, "eps": 1e-3, "r": 4}).encode()
    yield json.dumps({"peft_type": "BOFT", "boft_block_size": 4}).encode()


def checkpoints() -> Iterator[bytes]:
    """Of two architectures, and a layer of each quantised form."""
    yield save(_apart(SD3))
    yield save(_apart(dict(list(SD15.items())[::9])))
    fp8 = random_weight((8, 32)).to(torch.float8_e4m3fn)
    one = torch.tensor(0.5)
    key = "model.diffusion_model.joint_blocks.0.x_block.attn.qkv"
    quantised = {
        "float8_e4m3fn": (fp8, {"weight_scale": one}, {}),
        "int8_tensorwise": (
            *(torch.ones(8, 64, dtype=torch.int8), {"weight_scale": one}),
            {"convrot": True, "convrot_groupsize": 64},
        ),
        "mxfp8": (fp8, {"weight_scale": torch.zeros(512, dtype=torch.uint8)}, {}),
        "nvfp4": (
            torch.ones(8, 16, dtype=torch.uint8),
            {"weight_scale": torch.ones(512).to(torch.float8_e4m3fn), "weight_scale_2": one},
            {},
        ),
    }
    for form, (weight, parts, options) in quantised.items():
        named = {f"{key}.{part}": tensor for part, tensor in parts.items()}
        mark = json.dumps({"format": form, **options})
        data = torch.frombuffer(bytearray(mark.encode()), dtype=torch.uint8)
        yield save(_apart({f"{key}.weight": weight, **named, f"{key}.comfy_quant": data}))
        told = json.dumps({"layers": {key: {"format": form, **options}}})
        yield save(_apart({f"{key}.weight": weight, **named}), {"_quantization_metadata": told})
    yield save(_apart({f"{key}.weight": fp8, f"{key}.scale_weight": one}))


def ggufs() -> Iterator[bytes]:
    tensors = {
        "joint_blocks.0.x_block.attn.qkv.weight": np.ones((24, 64), np.float32),
        "joint_blocks.0.x_block.attn.qkv.bias": np.ones(24, np.float32),
        "x_embedder.proj.weight": np.ones((16, 8, 2, 2), np.float32),
    }
    for kind in (None, *map(gguf.GGMLQuantizationType, (8, 30, 2, 1))):
        yield _written(lambda path, kind=kind: _write_gguf(path, tensors, kind), "x.gguf")


def _write_gguf(
    path: Path, tensors: Mapping[str, np.ndarray], kind: gguf.GGMLQuantizationType | None
) -> None:
    writer = gguf.GGUFWriter(path, "sd3")
    writer.add_string("general.name", "x")
    writer.add_array("general.tags", ["a", "b"])
    writer.add_float32("general.factor", 0.5)
    for key, values in tensors.items():
        data = values
        if data.ndim > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{key}", [int(n) for n in data.shape])
            data = data.reshape(-1, 32)
        if kind is not None and data.ndim == 2:
            writer.add_tensor(key, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@cache
def one_shard() -> bytes:
    return save(_apart({f"blocks.{i}.mid.weight": random_weight((8, 8)) for i in range(2)}))


def indices() -> Iterator[bytes]:
    places = {"blocks.0.mid.weight": "a.safetensors", "blocks.1.mid.weight": "b.safetensors"}
    yield json.dumps({"metadata": {"total_size": 512}, "weight_map": places}).encode()


def configs() -> Iterator[bytes]:
    yield json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 8}).encode()
    text = {"vocab_size": 8}
    yield json.dumps({"architectures": ["XForConditionalGeneration"], "text_config": text}).encode()


def pairs() -> Iterator[bytes]:
    names = list(pairs_of_models()[0][0].key_map)[:4]
    yield json.dumps({"pairs": {names[0]: names[1], names[1]: None}}).encode()
    yield json.dumps({names[0]: names[0], "text_encoder.x": "text_encoder.x"}).encode()
    yield b""


@cache
def recordings() -> tuple[bytes, ...]:
    recording = recorded(lora_file("qkv", "proj"))
    return (_written(lambda path: write_recording(recording, path)),)


def manifests() -> Iterator[bytes]:
    yield b"lora,source,target,out,mode,rank\nl.safetensors,a.safetensors,b.safetensors,o,full,4\n"
    yield b"\xef\xbb\xbflora;threshold;energy\nl.safetensors;0.5;0.8\nm.safetensors;;\n"
    row = {"lora": "l.safetensors", "rank": 4, "threshold": 0.5, "naming": "kohya", "pairs": None}
    yield "\n".join(json.dumps({**row, "out": f"{i}"}) for i in range(2)).encode()


def results() -> Iterator[bytes]:
    row = ("moved", "l", "a", "b", "o", "3", "0", "0", "0.9", "1.0", "")
    yield (",".join(RESULTS) + "\n" + ",".join(row) + "\n").encode()


def bases() -> tuple[torch.Tensor, ...]:
    return random_weight((6, 2)), random_weight((6, 4)), random_weight((2,))


def kept_bases() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        KeptOnDisk(Path(folder), 10**9).tensors(("a", 0.5, "subspaces"), bases, CPU)
        (path,) = Path(folder).iterdir()
        yield path.read_bytes()


def kept_results() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        cache = FileCache(Path(folder), 10**9)
        yield cache.keep(KEY, "x", {"a": random_weight((3, 4))}, {"b": "c"}).read_bytes()


def memories() -> Iterator[bytes]:
    yield json.dumps({"/tmp/x": ["1 2 3 4 5", "ab" * 32]}).encode()


def lists() -> Iterator[bytes]:
    yield b"a 0.5\nb 2 0.5 1\n# no\n<lora:sub/a:1:0.5> <lora:b 2>\n"
