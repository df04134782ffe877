"""Messages with a stranger's words in them: what page and terminal get of them."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from prolora.errors import ProLoRAError, printable


@given(st.text(max_size=50))
def test_no_word_steers(words):
    said = str(ProLoRAError(f"{words}: choose another."))
    assert all(letter == "\n" or letter.isprintable() for letter in said)
    assert said.endswith(": choose another.") and len(said) == len(words) + len(": choose another.")


def test_what_steers_is_known():
    steers = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code))[0] == "C"]
    assert "\x1b" in steers and "\u202e" in steers and "\ud800" in steers and len(steers) > 1e5
    assert set(printable("".join(steers))) == {" ", "\n"}


@given(st.integers(0, 10_000))
def test_a_long_message_keeps_what_to_do(length):
    message = f"The file {'y' * length} is no LoRA. Choose another."
    said = str(ProLoRAError(message))
    assert said.startswith("The file y" if length else "The file ")
    assert said.endswith("is no LoRA. Choose another.")
    assert said == message or len(said) < 3100 < len(message) + 200
