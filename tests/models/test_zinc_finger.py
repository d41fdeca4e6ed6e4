"""The family of zinc fingers is what its page says."""

import numpy as np

from models.targets import zinc_finger


def test_the_family_has_its_145_members_of_23_amino_acids_which_hold_zinc():
    sequences, one_hots = zinc_finger.sequences(), zinc_finger.one_hots()
    assert len(set(sequences)) == len(sequences) == 145
    assert one_hots.shape == (145, 23, 20)
    assert (one_hots.sum(-1) == 1).all()
    assert [zinc_finger.letters(x) for x in one_hots] == sequences
    for place, letter in zinc_finger.LIGANDS.items():
        assert {sequence[place] for sequence in sequences} == {letter}
    assert np.mean([sequence[9] in "FYW" for sequence in sequences]) > 0.8
    assert np.mean([sequence[15] == "L" for sequence in sequences]) > 0.7
