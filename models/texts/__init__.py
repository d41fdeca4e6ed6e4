"""Texts for small language models, and their letters as tokens."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

ALPHABET = " abcdefghijklmnopqrstuvwxyz"


def sonnets() -> str:
    """Eight of Shakespeare's sonnets: 18, 29, 30, 55, 60, 73, 116 and 130."""
    return (Path(__file__).parent / "data" / "sonnets.txt").read_text()


def to_tokens(text: str) -> Int[np.ndarray, " n"]:
    """Places in `ALPHABET` of the letters of a text: in lower case, one space between words."""
    plain = re.sub("[^a-z]+", " ", text.lower().replace("'", "")).strip()
    return np.array([ALPHABET.index(letter) for letter in plain], np.int32)


def to_text(tokens: Int[np.ndarray, " n"]) -> str:
    """Letters of tokens."""
    return "".join(ALPHABET[token] for token in np.asarray(tokens))
