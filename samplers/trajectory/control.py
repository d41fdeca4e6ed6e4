"""What diffusion samplers learn: a control, the target's gradient among what it sees.

    u(x, t) = clip(A(x / s, t) + b(t) f / sqrt(1 + r f^2), 10^4)               ([1], equation 15)

A is a network that begins as zero, b a function of time, one for each coordinate, that begins as a
constant; f is s times the gradient of log R / N(0, s^2 I), by coordinate. Without the second term
(``b`` None) the target is seen at the ends of paths only.

r is the variance of the noise that is still to come, in units of s^2. The optimal u is f where r is
zero. Before that it is the mean of what has still to be added to x, over s r, and by Jensen's
inequality

    E u^2 <= 1 / r,    by coordinate, along paths to a target whose second moment is at most s^2

The gradient knows nothing of this: it grows as a mode gets narrow, and in steps that are longer
than the mode is wide it throws a path out, farther each time. Divided by the root it is never
longer than 1 / sqrt(r), moves a path by 2 s at most in all, and is nearly the optimal u of a single
mode of variance sigma^2, -x / (sigma^2 + r): with f = -x / sigma^2, at an x^2 of sigma^2 + r, it is
-x / sqrt(sigma^4 + r sigma^2 + r^2). So weights are finite before anything is learned, however
narrow the modes.

By coordinate, this has the axes of the coordinates in it, and so has a gain for each. A network
with ``turns`` true commutes with rotations (`samplers.EGNN`), and nothing it learns undoes that: of
such a control the gradient is divided as one vector, by its mean square, and has one gain.

The authors of [2] clip the gradient at 100, as `Reward` does, and begin with a b of 0.01, with
which the target has first to be found.

A loss that is differentiated through the path, `ReverseKL(reparametrized=True)`, goes through f,
and takes second derivatives of the target. The authors of [1] and [2] stop there, and what is left
is not the gradient of reverse KL. To its log-derivative, the default, and to trajectory balance and
VarGrad, states are data, and there is nothing to go through.

References
----------
.. [1] Zhang and Chen, "Path integral sampler: a stochastic control approach for sampling", ICLR
   2022, arXiv:2111.15141.
.. [2] Sendera et al., "Improved off-policy training of diffusion samplers", NeurIPS 2024,
   arXiv:2402.05098. Langevin parametrization.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from samplers.networks import MLP

LARGEST = 1e4
NUM_WAVES = 8
small = partial(MLP, width=64, depth=2)


class Gain(eqx.Module):
    """Sums of waves in time, learned, that begin as the constant ``first``: one a coordinate."""

    constant: Float[Array, " d"]
    waves: Float[Array, "2*k d"]

    def __init__(self, size: int, first: float, dtype: Any) -> None:
        self.constant = jnp.full(size, first, dtype)
        self.waves = jnp.zeros((2 * NUM_WAVES, size), dtype)

    def __call__(self, t: Float[Array, ""]) -> Float[Array, " d"]:
        angle = 0.5 * jnp.pi * jnp.arange(1, NUM_WAVES + 1, dtype=t.dtype) * t
        return self.constant + jnp.concatenate([jnp.sin(angle), jnp.cos(angle)]) @ self.waves


def tamed(
    gradient: Float[Array, " d"], variance: Float[Array, ""], *, whole: bool = False
) -> Float[Array, " d"]:
    """No coordinate is longer than 1 / sqrt(variance); short ones are what they were.

    As a ``whole`` it is the root of their mean square that is not, and the direction stays.
    """
    square = jnp.mean(gradient**2) if whole else gradient**2
    return gradient / jnp.sqrt(1 + variance * square)


def to_the_end(rates: Float[Array, " N"]) -> Float[Array, " states"]:
    """Of a state that shrinks by exp(-rate) a step, the share that is left in the end."""
    left = jnp.cumsum(rates[::-1])[::-1]
    return jnp.exp(-jnp.append(left, jnp.zeros((), rates.dtype)))


class Control(eqx.Module):
    """The u above."""

    network: Any
    gain: Gain | None

    def __init__(
        self, rng_key: PRNGKeyArray, network: Any, size: int, first: float | None, dtype: Any
    ) -> None:
        self.network = network(rng_key, (size,), dtype=dtype)
        self.gain = None if first is None else Gain(1 if self.turns else size, first, dtype)

    @property
    def turns(self) -> bool:
        """Whether the network commutes with rotations, so that the push has to."""
        return getattr(self.network, "turns", False)

    def __call__(
        self, x: Float[Array, " d"], t: Float[Array, ""], push: Float[Array, " d"] | None
    ) -> Float[Array, " d"]:
        """``x`` in units of the reference; ``push`` is the tamed gradient."""
        u = self.network(x, t)
        if self.gain is not None and push is not None:
            u = u + self.gain(t) * push
        return jnp.clip(u, -LARGEST, LARGEST)
