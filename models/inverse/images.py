"""Photographs and digits to try methods on: those that come with Python's libraries.

One comes with this library, the 64 x 64 "camera" of `models.inverse.deconvolution`. The others are
read from scikit-image (photographs, textures, phantoms, 200 faces and non-faces of 25 x 25 pixels)
and scikit-learn (1,797 digits of 8 x 8), where these are installed; nothing is downloaded.
"""

import importlib
from typing import Any

import numpy as np

from models.inverse.deconvolution import CAMERA

# In scikit-image's wheel; its other images are downloaded, and therefore not here.
PHOTOGRAPHS = (
    "astronaut brick camera cat cell clock coffee coins grass gravel hubble_deep_field "
    "immunohistochemistry moon page retina rocket shepp_logan_phantom text"
).split()


def photograph(name: str = "camera", size: int = 64) -> np.ndarray:
    """A photograph in grey between 0 and 1, its central square averaged to ``size`` x ``size``.

    Raises
    ------
    ValueError
        For a name that is not in `PHOTOGRAPHS`, or a size beyond the image's.
    """
    if name == "camera" and size == 64:
        return np.load(CAMERA)
    if name not in PHOTOGRAPHS:
        raise ValueError(f"there is no photograph {name!r}; there are {', '.join(PHOTOGRAPHS)}")
    image = np.asarray(getattr(_library("skimage.data", "scikit-image"), name)(), np.float64)
    if image.ndim == 3:
        image = image[..., :3] @ np.array([0.2125, 0.7154, 0.0721])  # luminance, Rec. 709
    image = image / (255.0 if image.max() > 1 else 1.0)
    block = min(image.shape) // size
    if block == 0:
        raise ValueError(f"{name} has {image.shape} pixels: no {size} x {size} of them")
    top, left = ((n - block * size) // 2 for n in image.shape)
    square = image[top : top + block * size, left : left + block * size]
    return square.reshape(size, block, size, block).mean((1, 3)).astype(np.float32)


def faces() -> np.ndarray:
    """100 faces (100, 25, 25) between 0 and 1, of "Labeled Faces in the Wild"."""
    return np.asarray(_library("skimage.data", "scikit-image").lfw_subset()[:100], np.float32)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 handwritten digits (1797, 8, 8) between 0 and 1, and their labels."""
    data = _library("sklearn.datasets", "scikit-learn").load_digits()
    return np.asarray(data.images / 16, np.float32), np.asarray(data.target)


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this image is {package}'s: pip install {package}") from error
