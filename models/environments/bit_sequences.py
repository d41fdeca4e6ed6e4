"""Bit sequences: strings of bits written word by word, rewarded for being near one of some modes.

    log R(x) = -strength min_m Hamming(x, m)

The modes are strings of 15 blocks, each one of 00000000, 11111111, 11110000, 00001111, 00111100. At
a strength of 1 about 32 of the 120 bits differ from the mode, and the mass of the basins is nearly
equal; that of [1], 3 / 120, is uniform to within a few per cent: finding no mode there is right.

There are too many strings to list, and yet draws are easy: a mode with some of its bits flipped,
one in 1 + e^strength, is a draw of q(x) ~ sum_m exp(-strength Hamming(x, m)), and

    R(x) / q(x) = Z (q) max_m exp(-strength d_m) / sum_m exp(-strength d_m) <= Z (q)

is bounded, so that Z and the masses of the basins are means over such draws (``truth``), and the
law can be drawn from by rejection (``exact``).

References
----------
.. [1] Malkin et al., "Trajectory balance: improved credit assignment in GFlowNets", NeurIPS 2022,
   arXiv:2201.13259. Section 5.3.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from models.environments.sequences import Written
from ppl.sampler import positive, size

BLOCKS = ("00000000", "11111111", "11110000", "00001111", "00111100")


def some_modes(num_modes: int = 60, num_blocks: int = 15) -> Int[Array, "modes bits"]:
    """Strings of blocks, drawn with a fixed seed."""
    blocks = np.array([[int(bit) for bit in block] for block in BLOCKS], np.int32)
    chosen = np.random.default_rng(0).integers(len(BLOCKS), size=(num_modes, num_blocks))
    return jnp.asarray(blocks[chosen].reshape(num_modes, -1))


class BitSequences(Written):
    """Strings of as many bits as the modes have.

    Parameters
    ----------
    modes
        Rows of bits; by default 60 of 120 bits.
    word
        Bits of a word; a move writes one.
    strength
        Nats for a bit that differs from the nearest mode.
    """

    modes: Int[Array, "modes bits"] = eqx.field(default_factory=some_modes)
    word: int = size("word", default=8)
    strength: Float[Array, ""] = positive("strength", default=1.0)

    def __check_init__(self) -> None:
        if self.modes.shape[1] % self.word:
            raise ValueError(
                f"word must divide the {self.modes.shape[1]} bits of a mode; got {self.word}"
            )

    @property
    def length(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of words."""
        return self.modes.shape[1] // self.word

    @property
    def shortest(self) -> int:
        """All places are written."""
        return self.length

    @property
    def num_actions(self) -> int:
        """A move for each word."""
        return 2**self.word

    def constrain(self, position: Int[Array, " words"]) -> Int[Array, " bits"]:
        """The bits."""
        return self._bits(position).reshape(-1)

    def distances(self, position: Int[Array, " words"]) -> Int[Array, " modes"]:
        """Bits that differ from each mode."""
        return jnp.sum(self.constrain(position) != self.modes, axis=1)

    def log_density(self, position: Int[Array, " words"]) -> Float[Array, ""]:
        return -self.strength * jnp.min(self.distances(position))

    def partial_energy(self, state: Int[Array, " words"]) -> Float[Array, ""]:
        """That of the words so far: what they differ by from the nearest beginning of a mode."""
        written = jnp.repeat(state >= 0, self.word)
        differ = (self.constrain(state) != self.modes) & written
        return self.strength * jnp.min(jnp.sum(differ, axis=1))

    def progress(self, state: Int[Array, " words"]) -> Float[Array, ""]:
        """Share of the words that are there."""
        return jnp.mean(state >= 0, dtype=float)

    # What is known ---------------------------------------------------------------------------

    def basins(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest mode of each string, (n, bits), the first of equals, and its distance."""
        modes = np.asarray(self.modes, np.float32)
        strings = np.asarray(bits, np.float32)
        # |x - m|^2 of bits is Hamming's distance.
        distance = strings.sum(1)[:, None] + modes.sum(1) - 2 * strings @ modes.T
        return np.argmin(distance, axis=1), np.min(distance, axis=1)

    def truth(self, rng: np.random.Generator, n: int) -> tuple[float, float, np.ndarray]:
        """Log Z, its standard error, and the masses of the basins, from ``n`` draws of q."""
        strings, ratio = self._flipped(rng, n)
        num_modes, num_bits = self.modes.shape
        log_q = np.log(num_modes) + num_bits * np.log1p(np.exp(-float(self.strength)))
        nearest, _ = self.basins(strings)
        masses = np.bincount(nearest, ratio, minlength=num_modes) / ratio.sum()
        return log_q + np.log(ratio.mean()), ratio.std() / ratio.mean() / n**0.5, masses

    def exact(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Strings drawn from R / Z, (about n, bits): the accepted of ``n`` draws of q."""
        strings, ratio = self._flipped(rng, n)
        return strings[rng.random(n) < ratio]

    def _flipped(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws of q and their R / q, relative to its bound."""
        modes = np.asarray(self.modes)
        share = 1 / (1 + np.exp(float(self.strength)))
        strings = modes[rng.integers(len(modes), size=n)] ^ (
            rng.random((n, modes.shape[1])) < share
        )
        distance = strings.sum(1)[:, None] + modes.sum(1) - 2 * strings @ modes.T
        gaps = np.exp(-float(self.strength) * (distance - distance.min(1, keepdims=True)))
        return strings, 1 / gaps.sum(1)

    # What networks see -----------------------------------------------------------------------

    def features(self, state: Int[Array, " words"]) -> Float[Array, "words bits"]:
        signs = 2.0 * self._bits(state) - 1
        return jnp.where(state[:, None] >= 0, signs, 0.0)

    def _bits(self, words: Int[Array, " words"]) -> Int[Array, "words bits"]:
        return (words[:, None] >> jnp.arange(self.word)[::-1]) & 1
