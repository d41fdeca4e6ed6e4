"""Zinc fingers: 145 protein domains of 23 amino acids, a data set of sequences of one family.

Two cysteines, at the places 3 and 6, and two histidines, at 19 and 23, hold a zinc ion in every one
of them; most have an aromatic residue at place 10 and a leucine at 16. They are the seed alignment
of the family C2H2 in Pfam, without what few of them have inserted, and without the six that lack an
amino acid in one of the 23 places. 145 sequences tell what is conserved, and little of how places
depend on each other.

Data: Pfam, family PF00096 (version 33), CC0, no copyright restrictions. Each line of the file names
the protein and its residues.

References
----------
.. [1] Mistry et al., "Pfam: the protein families database in 2021", Nucleic Acids Res. 49, 2021,
   doi:10.1093/nar/gkaa913.
.. [2] Böhm, Frishman and Mewes, "Variations of the C2H2 zinc finger motif in the yeast genome and
   classification of yeast zinc finger proteins", Nucleic Acids Res. 25, 1997,
   doi:10.1093/nar/25.12.2464.
"""

from pathlib import Path

import numpy as np

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
LIGANDS = {2: "C", 5: "C", 18: "H", 22: "H"}  # place, from 0, and what it holds

_FILE = Path(__file__).parent / "data" / "zinc_finger.txt"


def sequences() -> list[str]:
    """Return the 145 sequences, in one-letter code."""
    return [line.split()[0] for line in _FILE.read_text().splitlines()]


def one_hots() -> np.ndarray:
    """Return the same as an array of integers, (145, 23, 20): a 1 for each letter."""
    tokens = np.array([[LETTERS.index(letter) for letter in row] for row in sequences()])
    return np.eye(len(LETTERS), dtype=np.int32)[tokens]


def letters(one_hots: np.ndarray) -> str:
    """Sequence of one array (23, 20), in one-letter code."""
    return "".join(LETTERS[i] for i in np.asarray(one_hots).argmax(-1))
