"""Texts become tokens and back."""

from models.texts import ALPHABET, sonnets, to_text, to_tokens


def test_a_text_and_its_letters():
    assert (
        to_text(to_tokens("Rough winds, do  shake\nthe summer's"))
        == "rough winds do shake the summers"
    )
    tokens = to_tokens(sonnets())
    assert 4500 < len(tokens) < 5500
    assert set(to_text(tokens)) == set(ALPHABET) - {"z"}
    assert to_text(tokens).startswith("shall i compare thee to a summers day thou art")
