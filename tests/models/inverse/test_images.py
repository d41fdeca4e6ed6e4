"""Images are grey, square and between 0 and 1, and say which library they are missing."""

import sys
import types

import numpy as np
import pytest

from models.inverse import images


def test_the_camera_comes_with_the_library():
    assert images.photograph().shape == (64, 64)


def test_digits_are_those_of_scikit_learn():
    rows, labels = images.digits()
    assert rows.shape == (1797, 8, 8)
    assert (rows.min(), rows.max()) == (0, 1)
    assert set(labels) == set(range(10))


def test_a_photograph_is_averaged_over_blocks_of_its_central_square(monkeypatch):
    color = np.zeros((8, 14, 3), np.uint8)
    color[:, 3:7, 1] = 255  # the left half of the central square is green
    module = types.SimpleNamespace(cat=lambda: color)
    monkeypatch.setitem(sys.modules, "skimage", types.SimpleNamespace(data=module))
    monkeypatch.setitem(sys.modules, "skimage.data", module)
    image = images.photograph("cat", size=4)
    np.testing.assert_allclose(image, np.tile([0.7154, 0.7154, 0, 0], (4, 1)), atol=1e-6)
    with pytest.raises(ValueError, match=r"cat has \(8, 14\) pixels: no 9 x 9 of them"):
        images.photograph("cat", size=9)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ImportError, match="scikit-image's: pip install scikit-image"):
        images.photograph("moon")
    with pytest.raises(ValueError, match="no photograph 'lena'; there are astronaut, brick"):
        images.photograph("lena")
