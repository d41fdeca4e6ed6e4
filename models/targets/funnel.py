"""Neal's funnel: a log-scale and what it scales, whose width changes by orders of magnitude.

    v ~ Normal(0, scale),   x_i | v ~ Normal(0, exp(v / 2)),   i = 1, ..., d - 1
    log pi(v, x) = -v^2 / (2 scale^2) - exp(-v) |x|^2 / 2 - (d - 1) v / 2
    log Z = d / 2 log(2 pi) + log scale
    one mode at v = -(d - 1) scale^2 / 2, x = 0, deep in the neck and of next to no mass

No one step size suits neck and mouth. It is what a centered hierarchy with little data looks like.
Its ``x`` have such tails (the fourth moment is ``3 exp(2 scale^2)``) that averages of their squares
tell nothing: judge it by quantiles.

Two funnels go by the name, of ten dimensions both: `hard_funnel` is Neal's, with scale 3;
`easy_funnel` is that of some papers on learned samplers, with scale 1, where v stays above -4 and
one step size does. Figures of one say nothing about the other.

References
----------
.. [1] Neal, "Slice sampling", Annals of Statistics 31, 2003, doi:10.1214/aos/1056562461.
   Section 8, with d = 10 and scale = 3.
.. [2] Zhang and Chen, "Path integral sampler: a stochastic control approach for sampling", ICLR
   2022, arXiv:2111.15141. Scale 1.
"""

import math

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

from models.targets.known import Known, vector
from ppl.sampler import positive, size

type Position = dict[str, Array]


class Funnel(Known):
    """Neal's funnel; positions are ``{"v": (), "x": (num_dims - 1,)}``.

    Parameters
    ----------
    num_dims
        Dimension d of the whole position, at least 2.
    scale
        Standard deviation of v.
    """

    num_dims: int = size("num_dims", minimum=2, default=10)
    scale: Float[Array, ""] = positive("scale", default=3.0)

    @property
    def template(self) -> dict[str, jax.ShapeDtypeStruct]:
        x = vector(self.num_dims - 1)
        return {"v": jax.ShapeDtypeStruct((), x.dtype), "x": x}

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return self.num_dims / 2 * math.log(2 * math.pi) + jnp.log(self.scale)

    @property
    def modes(self) -> Position:
        deepest = -(self.num_dims - 1) * self.scale**2 / 2
        return {"v": deepest[None], "x": jnp.zeros((1, self.num_dims - 1))}

    def log_density(self, position: Position) -> Float[Array, ""]:
        v, x = position["v"], position["x"]
        log_prior = -((v / self.scale) ** 2) / 2
        return log_prior - jnp.exp(-v) * jnp.vdot(x, x) / 2 - x.size * v / 2

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        key_v, key_x = random.split(rng_key)
        dtype = self.template["v"].dtype
        v = self.scale.astype(dtype) * random.normal(key_v, (n,), dtype)
        x = jnp.exp(v / 2)[:, None] * random.normal(key_x, (n, self.num_dims - 1), dtype)
        return {"v": v, "x": x}


def hard_funnel() -> Funnel:
    """Neal's: v has the standard deviation 3."""
    return Funnel(scale=3.0)  # pyright: ignore[reportCallIssue]


def easy_funnel() -> Funnel:
    """The one with a v of standard deviation 1."""
    return Funnel(scale=1.0)  # pyright: ignore[reportCallIssue]
