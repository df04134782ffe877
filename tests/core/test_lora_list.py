"""Lists of LoRAs as people and LoRA managers write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolora.adapters.lora_list import ListedLora, LoraNames, parse_lora_list
from prolora.errors import ProLoRAError

NAMES = LoraNames(
    (
        "ink.safetensors",
        "styles/ink wash.safetensors",
        "styles\\v 2 0.8.safetensors",
        "people/anna.safetensors",
        "old/anna.safetensors",
        "v 2.safetensors",
        "dots.v1.5.safetensors",
    )
)


def listed(text: str) -> list[tuple[str, float, float]]:
    found = parse_lora_list(text, NAMES)
    return [(lora.name, lora.strength_model, lora.strength_clip) for lora in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ink", [("ink.safetensors", 1, 1)]),
        ("ink.safetensors 0.8", [("ink.safetensors", 0.8, 0.8)]),
        ("  ink , 0.8,  -.5 ", [("ink.safetensors", 0.8, -0.5)]),
        ("ink wash 0.5", [("styles/ink wash.safetensors", 0.5, 0.5)]),
        ("styles\\ink wash", [("styles/ink wash.safetensors", 1, 1)]),
        ("styles/v 2 0.8", [("styles\\v 2 0.8.safetensors", 1, 1)]),
        ("v 2 0.7", [("v 2.safetensors", 0.7, 0.7)]),
        ("dots.v1.5 2", [("dots.v1.5.safetensors", 2, 2)]),
        ("anna.safetensors\n", None),
        ("people/anna 1 0", [("people/anna.safetensors", 1, 0)]),
        ("# ink 1\n\nink 1e-1", [("ink.safetensors", 0.1, 0.1)]),
        ("<lora:ink:0.8>", [("ink.safetensors", 0.8, 0.8)]),
        ("<LORA:ink>", [("ink.safetensors", 1, 1)]),
        (
            "<lora:ink:0.8:0.2>, <lora:styles/ink wash:1>",
            [("ink.safetensors", 0.8, 0.2), ("styles/ink wash.safetensors", 1, 1)],
        ),
        ("<lora:ink:0.8> a lighthouse", None),
        ("<lora:ink:strong>", None),
        ("ink nan", None),
        ("ink inf", None),
        ("ink 1 1 1", None),
        ("unknown 1", None),
        ("0.8", None),
        (",", None),
    ],
)
def test_a_line(text, found):
    if found is None:
        with pytest.raises(ProLoRAError):
            listed(text)
    else:
        assert listed(text) == found


def test_what_is_told_of_an_unknown_name():
    with pytest.raises(ProLoRAError, match=r"no LoRA 'inc'.*meant: ink"):
        listed("inc 1")
    with pytest.raises(ProLoRAError, match=r"people/anna.safetensors, old/anna.safetensors"):
        listed("anna")


@given(st.sampled_from(NAMES.names), st.floats(-9, 9), st.floats(-9, 9))
def test_what_is_written_is_read(name, of_model, of_clip):
    """Every whole name, with spaces and numbers in it, by all spellings."""
    wanted = [ListedLora(name, of_model, of_clip)]
    for text in (f"{name} {of_model!r} {of_clip!r}", f"<lora:{name}:{of_model!r}:{of_clip!r}>"):
        assert parse_lora_list(text, NAMES) == wanted


@given(st.text())
def test_any_text_is_a_list_or_refused_in_a_sentence(text):
    try:
        parse_lora_list(text, NAMES)
    except ProLoRAError as error:
        assert len(str(error)) > 10
