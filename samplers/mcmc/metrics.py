"""Metrics: linear maps that make a target round, and how draws and gradients choose them.

A metric is a factor ``A``; its inverse mass matrix is ``M^-1 = A A^T``. Kernels move ``z`` in
``x = x_0 + A z`` with the identity as mass matrix: no system is solved while sampling, and one
code path serves all metrics.

The metric is chosen to minimize the Fisher divergence between the target and a Gaussian of
covariance ``M^-1`` over a set of draws ``x`` with gradients ``g`` of the log-density [1]:

    diagonal:  M^-1_ii = sqrt(var(x_i) / var(g_i))                          (theorem 2.1)
    dense:     M^-1 cov(g) M^-1 = cov(x), the geometric mean
               M^-1 = cov(x) # cov(g)^-1                                    (theorem 2.3, eq. 9)
    low rank:  M^-1 = D (I + U (L - I) U^T) D                               (algorithm 1)

The gradient of a Gaussian is linear, ``g = -S^-1 (x - m)``, so that these equations give its
covariance exactly from any ``d + 1`` draws in general position, converged or not; a sample
covariance only approaches it.

References
----------
.. [1] Seyboldt, Carlson and Carpenter, "Preconditioning Hamiltonian Monte Carlo by minimizing
   Fisher divergence", 2026, arXiv:2603.18845.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ppl.sampler import size

# Draws and gradients of the identity that join those observed: they decide where nothing else
# does, that is in directions no draw has moved along.
PSEUDO_DRAWS = 0.1
SMALLEST, LARGEST = 1e-12, 1e12  # of the scales of one metric, in units of the position
DENSE_UP_TO = 200
FUSED_UP_TO = 24


def _cutoff(value: float) -> float:
    if not value >= 1:
        raise ValueError(f"cutoff must be at least 1; got {value}")
    return float(value)


class Metric(eqx.Module):
    """A linear map ``A``; subclasses are final.

    Arrays are None until `for_dimension` lays them out. ``learns``: whether `fit` looks at draws.
    """

    learns: ClassVar[bool] = True

    @abstractmethod
    def for_dimension(self, dimension: int, dtype: DTypeLike) -> "Metric":
        """Lay out the arrays: those given by the user, else the identity."""

    @abstractmethod
    def scale(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        """``A z``."""

    @abstractmethod
    def scale_transposed(self, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
        """``A^T g``, the gradient with respect to ``z``."""

    @abstractmethod
    def unscale(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """``A^-1 x``; costs more than the others, and no kernel needs it to move."""

    @abstractmethod
    def rescaled(self, scales: Float[Array, " d"]) -> "Metric":
        """Same shapes, ``A = diag(scales)``."""

    @property
    @abstractmethod
    def is_identity(self) -> Bool[Array, ""]:
        """Whether ``A = I``: nothing is known yet."""

    @abstractmethod
    def fit(
        self,
        deviations: Float[Array, "n d"],
        gradients: Float[Array, "n d"] | None,
        count: Float[Array, ""],
    ) -> "Metric":
        """Metric of a set of draws; this one where the estimate is not finite.

        Parameters
        ----------
        deviations
            Draws minus their mean, each times the root of its weight; weights add up to one and a
            row of weight zero is no draw.
        gradients
            Gradients of the log-density there, minus their mean, with the same weights. None:
            the covariance of the draws alone decides.
        count
            Effective number of draws.
        """


class Identity(Metric):
    """No scaling: all directions alike. Warm-up leaves it alone."""

    learns: ClassVar[bool] = False

    def for_dimension(self, dimension: int, dtype: DTypeLike) -> "Identity":
        return self

    def scale(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        return z

    def scale_transposed(self, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
        return gradient

    def unscale(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x

    def rescaled(self, scales: Float[Array, " d"]) -> "Identity":
        return self

    @property
    def is_identity(self) -> Bool[Array, ""]:
        return jnp.zeros((), bool)  # and nothing will be

    def fit(
        self,
        deviations: Float[Array, "n d"],
        gradients: Float[Array, "n d"] | None,
        count: Float[Array, ""],
    ) -> "Identity":
        return self


class Diagonal(Metric):
    """A scale for each coordinate.

    Parameters
    ----------
    scales
        Standard deviations to start with, in units of the position; ones by default.
    """

    scales: Any  # (d,)

    def __init__(self, scales: Any = None):
        self.scales = None if scales is None else _positive_vector(scales)

    def for_dimension(self, dimension: int, dtype: DTypeLike) -> "Diagonal":
        scales = jnp.ones(dimension) if self.scales is None else self.scales
        _require_shape("Diagonal(scales=)", scales, (dimension,))
        return self._with(scales.astype(dtype))

    def scale(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.scales * z

    def scale_transposed(self, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.scales * gradient

    def unscale(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x / self.scales

    def rescaled(self, scales: Float[Array, " d"]) -> "Diagonal":
        return self._with(scales)

    @property
    def is_identity(self) -> Bool[Array, ""]:
        return jnp.all(self.scales == 1)

    def fit(
        self,
        deviations: Float[Array, "n d"],
        gradients: Float[Array, "n d"] | None,
        count: Float[Array, ""],
    ) -> "Diagonal":
        scales, _, _ = standardize(deviations, gradients)
        return _finite_or(self._with(scales), self)

    def _with(self, scales: Float[Array, " d"]) -> "Diagonal":
        return eqx.tree_at(lambda m: m.scales, self, scales, is_leaf=_is_none)


class Dense(Metric):
    """A full matrix: all correlations, at two matrix-vector products a gradient.

    Parameters
    ----------
    factor
        ``A`` to start with, such as the Cholesky factor of a covariance; the identity by default.
    """

    factor: Any  # (d, d)

    def __init__(self, factor: Any = None):
        self.factor = None if factor is None else _finite_array("factor", factor, 2)

    def for_dimension(self, dimension: int, dtype: DTypeLike) -> "Dense":
        factor = jnp.eye(dimension) if self.factor is None else self.factor
        _require_shape("Dense(factor=)", factor, (dimension, dimension))
        return self._with(factor.astype(dtype))

    def scale(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        return _product(self.factor, z)

    def scale_transposed(self, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
        return _product(self.factor.T, gradient)

    def unscale(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return jnp.linalg.solve(self.factor, x)

    def rescaled(self, scales: Float[Array, " d"]) -> "Dense":
        return self._with(jnp.diag(scales))

    @property
    def is_identity(self) -> Bool[Array, ""]:
        return jnp.all(self.factor == jnp.eye(self.factor.shape[0]))

    def fit(
        self,
        deviations: Float[Array, "n d"],
        gradients: Float[Array, "n d"] | None,
        count: Float[Array, ""],
    ) -> "Dense":
        scales, x, g = standardize(deviations, gradients)
        factor = scales[:, None] * geometric_mean_factor(x, g, count)
        diagonal = _finite_or(self.rescaled(scales), self)
        return _finite_or(self._with(factor), diagonal)

    def _with(self, factor: Float[Array, "d d"]) -> "Dense":
        return eqx.tree_at(lambda m: m.factor, self, factor, is_leaf=_is_none)


class LowRank(Metric):
    """A scale for each coordinate, and ``rank`` directions that are stretched besides.

    ``A = D (I + U (diag(stretches) - I) U^T)`` with orthonormal columns ``U``: for dimensions
    where a full matrix is too much to store, to estimate or to apply.

    Parameters
    ----------
    rank
        Number of directions; they are sought among those where the scaled draws vary most and
        those where the scaled gradients do.
    cutoff
        A direction whose variance is within this factor of 1 is left as it is: at that size it
        is as likely to be noise.
    """

    rank: int = size("rank", default=40)
    cutoff: float = eqx.field(static=True, default=2.0, converter=_cutoff)
    scales: Any = None  # (d,)
    directions: Any = None  # (d, rank)
    stretches: Any = None  # (rank,)

    def for_dimension(self, dimension: int, dtype: DTypeLike) -> "LowRank":
        rank = min(self.rank, dimension)
        given = (self.scales, self.directions, self.stretches)
        identity = (jnp.ones(dimension), jnp.zeros((dimension, rank)), jnp.ones(rank))
        names = ("scales", "directions", "stretches")
        arrays = []
        for name, mine, default in zip(names, given, identity, strict=True):
            array = default if mine is None else jnp.asarray(mine)
            _require_shape(f"LowRank({name}=)", array, default.shape)
            arrays.append(array.astype(dtype))
        return self._with(*arrays)

    def scale(self, z: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.scales * self._stretch(z)

    def scale_transposed(self, gradient: Float[Array, " d"]) -> Float[Array, " d"]:
        return self._stretch(self.scales * gradient)

    def unscale(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        y = x / self.scales
        return y + self.directions @ ((1 / self.stretches - 1) * (y @ self.directions))

    def _stretch(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        return y + self.directions @ ((self.stretches - 1) * (y @ self.directions))

    def rescaled(self, scales: Float[Array, " d"]) -> "LowRank":
        return self._with(scales, self.directions, jnp.ones_like(self.stretches))

    @property
    def is_identity(self) -> Bool[Array, ""]:
        return jnp.all(self.scales == 1) & jnp.all(self.stretches == 1)

    def fit(
        self,
        deviations: Float[Array, "n d"],
        gradients: Float[Array, "n d"] | None,
        count: Float[Array, ""],
    ) -> "LowRank":
        rank = self.stretches.shape[0]
        scales, x, g = standardize(deviations, gradients)
        # Algorithm 1: a basis of the directions that matter, the geometric mean within it.
        if g is None:
            basis = leading_directions(x, rank)
        else:
            basis = jnp.concatenate(
                [leading_directions(x, rank), leading_directions(g, rank)], axis=1
            )
        basis, _ = jnp.linalg.qr(basis)
        inner = geometric_mean_factor(x @ basis, None if g is None else g @ basis, count)
        rotation, lengths, _ = jnp.linalg.svd(inner)
        order = jnp.argsort(-jnp.abs(jnp.log(lengths)))[:rank]
        stretches = lengths[order]
        noise = jnp.abs(2 * jnp.log(stretches)) < np.log(self.cutoff)
        fitted = self._with(scales, (basis @ rotation)[:, order], jnp.where(noise, 1.0, stretches))
        diagonal = _finite_or(self.rescaled(scales), self)
        return _finite_or(fitted, diagonal)

    def _with(
        self,
        scales: Float[Array, " d"],
        directions: Float[Array, "d rank"],
        stretches: Float[Array, " rank"],
    ) -> "LowRank":
        return eqx.tree_at(
            lambda m: (m.scales, m.directions, m.stretches),
            self,
            (scales, directions, stretches),
            is_leaf=_is_none,
        )


def default_metric(dimension: int) -> Metric:
    """Dense while a full matrix costs little beside the density, low rank beyond."""
    return Dense() if dimension <= DENSE_UP_TO else LowRank()


def _product(matrix: Float[Array, "d d"], vector: Float[Array, " d"]) -> Float[Array, " d"]:
    # Small matrices cost less inside a fused loop than as a call of their own (measured on CPU:
    # a fifth of a whole NUTS step in ten dimensions, nothing at thirty).
    if len(vector) <= FUSED_UP_TO:
        return jnp.sum(matrix * vector, axis=1)
    return matrix @ vector


# Linear algebra -------------------------------------------------------------------------------


def standardize(
    deviations: Float[Array, "n d"], gradients: Float[Array, "n d"] | None
) -> tuple[Float[Array, " d"], Float[Array, "n d"], Float[Array, "n d"] | None]:
    """Scales of the diagonal metric, and draws and gradients in units of them.

    Afterwards draws and gradients have equal variance in each coordinate, so that single
    precision is spent on correlations.
    """
    sd_x = jnp.sqrt(jnp.sum(deviations**2, axis=0))
    # A coordinate that never moved says nothing.
    sd_x = jnp.where((sd_x > 0) & jnp.isfinite(sd_x), sd_x, jnp.nan)
    if gradients is None:
        scales = jnp.clip(sd_x, SMALLEST, LARGEST)
        return scales, deviations / scales, None
    sd_g = jnp.sqrt(jnp.sum(gradients**2, axis=0))
    sd_g = jnp.where(jnp.isfinite(sd_g), sd_g, jnp.nan)
    scales = jnp.where(sd_g == 0, sd_x, jnp.sqrt(sd_x / sd_g))
    scales = jnp.clip(scales, SMALLEST, LARGEST)
    return scales, deviations / scales, gradients * scales


def geometric_mean_factor(
    x: Float[Array, "n d"], g: Float[Array, "n d"] | None, count: Float[Array, ""]
) -> Float[Array, "d d"]:
    """Factor of ``(x^T x + c I) # (g^T g + c I)^-1``, or of ``x^T x + c I`` without gradients.

    ``c`` is the share of `PSEUDO_DRAWS` among the draws: zero rows leave the identity.
    """
    identity = jnp.eye(x.shape[1], dtype=x.dtype)
    # Draws that have hardly moved yet say as much about shape as others: compare with their size.
    length = jnp.minimum(1.0, jnp.mean(jnp.sum(x**2, axis=0)))
    ridge = jnp.sqrt(PSEUDO_DRAWS / count * length) * identity
    x = jnp.concatenate([x, ridge])
    if g is None:
        values, vectors = jnp.linalg.eigh(x.T @ x)
        return vectors * jnp.sqrt(_clipped(values))
    g = jnp.concatenate([g, ridge])

    # With L L^T = C_g and Q W Q^T = L^T C_x L the mean is F F^T, F = L^-T Q W^(1/4). Products
    # of the data square their condition number, so the first pass loses the smallest directions
    # to rounding where that exceeds 1e3 in float32. The second one finds them: the mean is
    # equivariant, A # B = F (F^-1 A F^-T # F^-1 B F^-T) F^T, and what is left is well conditioned.
    def improve(_: Any, factors: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, inverse = factors
        x_now, g_now = x @ inverse.T, g @ factor
        cov_g = g_now.T @ g_now
        floor = 8 * jnp.finfo(x.dtype).eps * jnp.trace(cov_g) * identity
        chol = jnp.linalg.cholesky(cov_g + floor)
        product = x_now @ chol
        values, vectors = jnp.linalg.eigh(product.T @ product)
        root = _clipped(values) ** 0.25
        step = jax.scipy.linalg.solve_triangular(chol, vectors * root, trans="T", lower=True)
        return factor @ step, ((vectors / root).T @ chol.T) @ inverse

    return jax.lax.fori_loop(0, 2, improve, (identity, identity))[0]


def _clipped(values: Float[Array, " d"]) -> Float[Array, " d"]:
    return jnp.maximum(values, jnp.finfo(values.dtype).eps * values[-1])


def leading_directions(x: Float[Array, "n d"], rank: int) -> Float[Array, "d rank"]:
    """Orthogonal directions along which the rows of ``x`` are longest."""
    n, dimension = x.shape
    if n >= dimension:
        _, vectors = jnp.linalg.eigh(x.T @ x)
        return vectors[:, ::-1][:, :rank]
    # Fewer rows than dimensions: through the small product.
    values, vectors = jnp.linalg.eigh(x @ x.T)
    longest = vectors[:, ::-1][:, :rank]
    lengths = jnp.sqrt(jnp.maximum(values[::-1][:rank], 0))
    found = x.T @ (longest / jnp.where(lengths > 0, lengths, 1))
    return jnp.pad(found, ((0, 0), (0, rank - found.shape[1])))


def _finite_or[M: Metric](new: M, old: M) -> M:
    leaves = jax.tree.leaves(eqx.filter(new, eqx.is_array))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)


# Fields ---------------------------------------------------------------------------------------


def as_metric(value: Any) -> Any:
    """Converter: a metric, or None for the default."""
    if value is None or isinstance(value, Metric) or type(value) is object:
        return value
    raise ValueError(
        "metric must be an object such as Diagonal(), Dense() or LowRank(rank=20) of "
        f"samplers.mcmc.metrics; got {value!r}"
    )


def _is_none(leaf: object) -> bool:
    return leaf is None


def _finite_array(name: str, value: Any, ndim: int) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.ndim != ndim or not np.all(np.isfinite(array)):
        raise ValueError(
            f"{name} must be an array of {ndim} axes of finite numbers; got shape {array.shape}, "
            f"dtype {array.dtype}"
        )
    return jnp.asarray(array, jnp.result_type(float))


def _positive_vector(value: Any) -> Array:
    array = _finite_array("scales", value, 1)
    if not np.all(np.asarray(array) > 0):
        raise ValueError(f"scales must be positive; the smallest is {np.min(np.asarray(array))}")
    return array


def _require_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} for this target; got {array.shape}")
