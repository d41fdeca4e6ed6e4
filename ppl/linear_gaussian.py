"""Likelihood of a linear observation with Gaussian noise.

    y = A x + noise_std e,   e ~ N(0, I)
    log p(y | x) = -|y - A x|^2 / (2 noise_std^2) - n log(noise_std sqrt(2 pi))

with n real numbers observed; a complex observation carries the noise in its real and in its
imaginary part. It is a function of x, so that ``ppl.posterior(prior, LinearGaussian(...))`` is a
target for every sampler, and it shows what it is made of to those that use the structure: the
operator and its adjoint, its singular values where there are some, and the solutions of the linear
equations that these methods lead to.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from ppl.energy import TargetError
from ppl.linear_operators import (
    SVD,
    Dense,
    apply,
    apply_adjoint,
    as_operator,
    inner,
    name_of,
    normal_like,
    num_reals,
    require_linear,
    squared_norm,
)
from ppl.noise import normal
from ppl.template import as_data, as_template, describe

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class LinearGaussian(eqx.Module):
    """``observation = operator(x) + noise_std * noise``, as a log-likelihood of x.

    Parameters
    ----------
    operator
        Linear function of one position (a module that is called, if it has parameters that are
        to be traced), a Lineax operator, or a matrix (rows, columns). A matrix of at most 1,024
        rows and columns is decomposed. Its adjoint is found by transposition, unless it has a
        method ``adjoint``; it may be its own decomposition, see `ppl.linear_operators.SVD`.
    observation
        Array, or pytree of arrays, as the operator returns it.
    noise_std
        Standard deviation of the noise, in units of the observation: a number, or one for each
        entry of the observation. Zero is allowed here: then there is no density, and methods that
        need more refuse it.
    template
        One position, where the operator does not say what it acts on.
    svd
        Decomposition of the operator, if it is not its own.
    max_steps, tolerance
        Of the conjugate gradients that solve equations where there is no decomposition: most
        steps, and the residual relative to the right-hand side.

    Raises
    ------
    TargetError
        If the operator is not linear, as far as one dot test with its adjoint can tell, if shapes
        do not fit, or the noise is negative.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl
    >>> mean = ppl.LinearGaussian(jnp.full((1, 4), 0.25), jnp.array([2.0]), 0.5)
    >>> mean.adjoint(jnp.array([1.0])).tolist()
    [0.25, 0.25, 0.25, 0.25]
    >>> float(mean(jnp.array([1.0, 2.0, 3.0, 2.0])) - mean(jnp.ones(4)))
    2.0
    """

    operator: Any
    observation: PyTree[Array]
    noise_std: PyTree[Array]
    template: PyTree[jax.ShapeDtypeStruct]
    factors: Any
    tolerance: Array
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        operator: Any,
        observation: PyTree,
        noise_std: Any,
        *,
        template: PyTree = None,
        svd: Any = None,
        max_steps: int = 200,
        tolerance: ArrayLike = 1e-5,
    ) -> None:
        self.operator, self.template = as_operator(operator, template)
        self.observation = _inexact(as_data(observation))
        _require_fit(self.operator, self.template, self.observation)
        require_linear(self.operator, self.template)
        self.noise_std = _noise(noise_std, self.observation)
        if svd is not None and not isinstance(svd, SVD):
            raise TargetError(
                "svd must have singular_values, u, u_adjoint, v and v_adjoint, see "
                f"ppl.linear_operators.SVD; got {svd!r}"
            )
        self.factors = svd
        self.max_steps, self.tolerance = max_steps, jnp.asarray(tolerance, float)

    # The likelihood ---------------------------------------------------------------------------

    def __call__(self, x: PyTree) -> Float[Array, ""]:
        """Log-likelihood of one position, as the user sees it; -inf where the noise is zero."""
        _require_position(self, x)
        log_sds = jax.tree.map(
            lambda r, sd: num_reals(r) / r.size * jnp.sum(jnp.broadcast_to(jnp.log(sd), r.shape)),
            self.observation,
            self._noise_tree,
        )
        constant = sum(jax.tree.leaves(log_sds)) + num_reals(self.observation) * LOG_SQRT_2PI
        value = -0.5 * self.misfit(x) - constant
        return jnp.where(self._least_noise > 0, value, -jnp.inf)

    def forward(self, x: PyTree) -> PyTree:
        """``A x``."""
        return apply(self.operator, x)

    def adjoint(self, observation: PyTree) -> PyTree:
        """``A^H y``."""
        return apply_adjoint(self.operator, self.template, observation)

    def residual(self, x: PyTree) -> PyTree:
        """``y - A x``."""
        return jax.tree.map(jnp.subtract, self.observation, self.forward(x))

    def misfit(self, x: PyTree) -> Float[Array, ""]:
        """``|(y - A x) / noise_std|^2``."""
        if self._works_in_basis:
            return self._squared(self._gap(x)) / self.noise_std**2
        return squared_norm(jax.tree.map(lambda r, sd: r / sd, self.residual(x), self._noise_tree))

    def misfit_given(self, x: PyTree, variance: Any) -> Float[Array, ""]:
        """``(y - A x)^H (variance A A^H + noise_std^2)^-1 (y - A x)``: of N(x, variance I).

        In a basis that is cheaper than the operator it is a sum over coordinates, and a constant
        for what of y no x makes.
        """
        if not self._works_in_basis:
            residual = self.residual(x)
            return inner(residual, self.solve_observed(residual, variance))
        svd: Any = self.svd
        noise = self.noise_std**2
        total = variance * svd.singular_values**2 + noise
        return squared_norm(_divide(self._gap(x), jnp.sqrt(total))) + _divide(self._unseen, noise)

    def normal_residual(self, x: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        """``A^H (y - A x)`` and ``|y - A x|^2``, by which methods follow the data."""
        if not self._works_in_basis:
            residual = self.residual(x)
            return self.adjoint(residual), squared_norm(residual)
        svd: Any = self.svd
        gap = self._gap(x)
        return svd.v(svd.singular_values * gap), self._squared(gap)

    def noise(self, rng_key: PRNGKeyArray) -> PyTree:
        """A draw of the noise, shaped like the observation."""
        draw = normal_like(rng_key, self.observation)
        return jax.tree.map(jnp.multiply, draw, self._noise_tree)

    def observe(self, rng_key: PRNGKeyArray, x: PyTree) -> "LinearGaussian":
        """The likelihood of data drawn given ``x``, in place of its own."""
        return self.given(jax.tree.map(jnp.add, self.forward(x), self.noise(rng_key)))

    def given(self, observation: PyTree) -> "LinearGaussian":
        """The same operator and noise with another observation, which is traced."""
        return eqx.tree_at(lambda self: self.observation, self, observation)

    @property
    def svd(self) -> SVD | None:
        """Decomposition of the operator, or None."""
        return self.operator if isinstance(self.operator, SVD) else self.factors

    @property
    def num_observed(self) -> int:
        """Real numbers observed."""
        return num_reals(self.observation)

    @property
    def has_noise(self) -> bool:
        """Whether the noise is above zero everywhere, as far as it is known."""
        least = self._least_noise
        return isinstance(least, Tracer) or bool(jnp.all(least > 0))

    def require_noise(self, method: str) -> None:
        """Raise, in the name of a method that divides by the noise, where that is zero."""
        if not self.has_noise:
            raise TargetError(
                f"{method} needs noise_std > 0: the likelihood of a noiseless observation has no "
                "density. Give the standard deviation of the noise, or a small one in its place"
            )

    # Linear equations -------------------------------------------------------------------------

    def solve(
        self, rhs: PyTree, ridge: Any, *, start: PyTree = None, max_steps: Any = None
    ) -> PyTree:
        """``x`` with ``(A^H A + ridge) x = rhs``.

        Exact by the singular values, otherwise by conjugate gradients from ``start``, which is
        zero by default. With ``ridge = 0`` it is the solution without a part that A does not see.
        """
        if self.svd is not None:
            total = self.svd.singular_values**2 + ridge
            return self.svd.v(_divide(self.svd.v_adjoint(rhs), total))
        normal = lambda x: _axpy(ridge, x, self.adjoint(self.forward(x)))
        return self._cg(normal, rhs, start, max_steps)

    def solve_observed(
        self, rhs: PyTree, variance: Any, *, start: PyTree = None, max_steps: Any = None
    ) -> PyTree:
        """``w`` with ``(variance A A^H + noise_std^2) w = rhs``, in the space of the observation.

        Exact where there are singular values and one standard deviation, otherwise by conjugate
        gradients. This is the covariance of the observation if that of x is ``variance I``.
        """
        if self.svd is not None and self._has_one_noise:
            svd, noise = self.svd, self.noise_std**2
            seen = svd.u_adjoint(rhs)
            unseen = jax.tree.map(jnp.subtract, rhs, svd.u(seen))
            # Divided by a small noise, what rounding leaves of the seen part would be large.
            unseen = jax.tree.map(jnp.subtract, unseen, svd.u(svd.u_adjoint(unseen)))
            within = svd.u(_divide(seen, variance * svd.singular_values**2 + noise))
            return jax.tree.map(lambda a, b: a + _divide(b, noise), within, unseen)
        return self._cg(
            lambda w: jax.tree.map(
                lambda g, w, sd: variance * g + sd**2 * w,
                self.forward(self.adjoint(w)), w, self._noise_tree,
            ),
            rhs, start, max_steps,
        )  # fmt: skip

    def pseudo_inverse(self, observation: PyTree) -> PyTree:
        """``A^+ y``: of all x nearest to the observation, the smallest."""
        if self.svd is not None:
            return self.svd.v(_divide(self.svd.u_adjoint(observation), self.svd.singular_values))
        return self.solve(self.adjoint(observation), 0.0)

    def mean_given(self, x: PyTree, variance: Any) -> PyTree:
        """Mean of ``N(x, variance I)`` times the likelihood: its mode as well.

        x + variance A^H (variance A A^H + noise_std^2)^-1 (y - A x)
        """
        return _axpy(variance, self.pulled(x, variance), x)

    def pulled(self, x: PyTree, variance: Any) -> PyTree:
        """``A^H (variance A A^H + noise_std^2)^-1 (y - A x)``: the data, seen from x.

        The score of the data if x is known up to ``N(0, variance I)``. In a basis that is cheaper
        than the operator it is one product for each coordinate, V s (d - s V^H x) / (variance s^2 +
        noise_std^2) with d = U^H y.
        """
        if not self._works_in_basis:
            return self._pull(self.residual(x), variance)
        svd: Any = self.svd
        return svd.v(self._pulled(x, variance))

    def _pulled(self, x: PyTree, variance: Any) -> Array:
        """`pulled` along the singular vectors."""
        svd: Any = self.svd
        s = svd.singular_values
        return _divide(s * self._gap(x), variance * s**2 + self.noise_std**2)

    def _gap(self, x: PyTree) -> Array:
        """``U^H (y - A x)``."""
        svd: Any = self.svd
        return svd.u_adjoint(self.observation) - svd.singular_values * svd.v_adjoint(x)

    def _squared(self, gap: Array) -> Float[Array, ""]:
        """``|y - A x|^2``."""
        return squared_norm(gap) + self._unseen

    @property
    def _unseen(self) -> Array:
        """``|y - U U^H y|^2``: of the observation, what no x makes."""
        svd: Any = self.svd
        made = svd.u(svd.u_adjoint(self.observation))
        return squared_norm(jax.tree.map(jnp.subtract, self.observation, made))

    def _pull(self, rhs: PyTree, variance: Any) -> PyTree:
        """``A^H (variance A A^H + noise_std^2)^-1 rhs``, to which what no x makes adds nothing."""
        if self.svd is None or not self._has_one_noise:
            return self.adjoint(self.solve_observed(rhs, variance))
        total = variance * self.svd.singular_values**2 + self.noise_std**2
        return self.adjoint(self.svd.u(_divide(self.svd.u_adjoint(rhs), total)))

    def draw_given(self, rng_key: PRNGKeyArray, x: PyTree, variance: Any) -> PyTree:
        """A draw of ``N(x, variance I)`` times the likelihood; exact where `solve_observed` is.

        A draw x' of the normal with an observation of its own, A x' + noise, is moved by what the
        true observation differs: the sum is Gaussian with the right mean and covariance. In a real
        basis that is cheaper than the operator each coordinate is drawn by itself.
        """
        if self._works_in_basis:
            svd: Any = self.svd
            total = variance * svd.singular_values**2 + self.noise_std**2
            shape = jax.eval_shape(svd.v_adjoint, self.template)
            if not jnp.issubdtype(shape.dtype, jnp.complexfloating):
                eps = normal(rng_key, shape.shape, shape.dtype)
                left = jnp.where(total > 0, _divide(self.noise_std**2, total), 1)
                moved = variance * self._pulled(x, variance) + jnp.sqrt(variance * left) * eps
                return jax.tree.map(jnp.add, x, svd.v(moved))
        key_x, key_noise = jax.random.split(rng_key)
        moved = _axpy(jnp.sqrt(variance), normal_like(key_x, self.template), x)
        difference = jax.tree.map(jnp.subtract, self.residual(moved), self.noise(key_noise))
        return _axpy(variance, self._pull(difference, variance), moved)

    def _cg(self, matvec: Any, rhs: PyTree, start: PyTree, max_steps: Any) -> PyTree:
        steps = self.max_steps if max_steps is None else max_steps
        return cg(matvec, rhs, x0=start, tol=self.tolerance, maxiter=steps)[0]  # pyright: ignore[reportArgumentType]

    # The noise --------------------------------------------------------------------------------

    @property
    def _works_in_basis(self) -> bool:
        """Whether a product with V costs no more than one with A: not so for a wide matrix."""
        wide = isinstance(self.svd, Dense) and self.svd.left.shape[0] < self.svd.right.shape[0]
        return self.svd is not None and self._has_one_noise and not wide

    @property
    def _has_one_noise(self) -> bool:
        return isinstance(self.noise_std, jax.Array) and self.noise_std.ndim == 0

    @property
    def _noise_tree(self) -> PyTree:
        if self._has_one_noise:
            return jax.tree.map(lambda _: self.noise_std, self.observation)
        return self.noise_std

    @property
    def _least_noise(self) -> Array:
        return jnp.min(jnp.stack([jnp.min(sd) for sd in jax.tree.leaves(self.noise_std)]))


def _axpy(a: Any, x: PyTree, y: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: a * x + y, x, y)


def _divide(a: Array, b: Array) -> Array:
    """``a / b``, and zero where b is zero: the pseudo-inverse of a diagonal."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


# What is given, checked -----------------------------------------------------------------------


def _inexact(observation: PyTree) -> PyTree:
    floating = lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    return jax.tree.map(lambda leaf: floating(jnp.asarray(leaf)), observation)


def _noise(noise_std: Any, observation: PyTree) -> PyTree:
    dtypes = [jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(observation)]
    noise = jax.tree.map(lambda sd: jnp.asarray(sd, jnp.result_type(*dtypes)), as_data(noise_std))
    known = [leaf for leaf in jax.tree.leaves(noise) if not isinstance(leaf, Tracer)]
    if not all(np.all(np.isfinite(leaf) & (np.asarray(leaf) >= 0)) for leaf in known):
        raise TargetError(
            f"noise_std must be a number that is not negative, or such numbers; got {noise_std}"
        )
    if isinstance(noise, jax.Array) and noise.ndim == 0:
        return noise
    alike = jax.tree.structure(noise) == jax.tree.structure(observation)
    if not alike or any(
        sd.shape not in ((), y.shape)
        for sd, y in zip(jax.tree.leaves(noise), jax.tree.leaves(observation), strict=True)
    ):
        raise TargetError(
            "noise_std is one number, or like the observation "
            f"{describe(as_template(observation))}; got {describe(as_template(noise))}"
        )
    return noise


def _require_fit(operator: Any, template: PyTree, observation: PyTree) -> None:
    try:
        output = jax.eval_shape(lambda x: apply(operator, x), template)
    except Exception as error:
        raise TargetError(
            f"the operator fails on the position it is said to act on: {_chain(operator, template)}"
            f" -> {type(error).__name__}: {error}"
        ) from error
    if _shapes(output) != _shapes(observation):
        raise TargetError(
            "operator and observation do not fit: "
            f"{_chain(operator, template, output)} -> observation {_described(observation)}"
        )
    real = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(output))
    if real and any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(observation)):
        raise TargetError(
            "the observation is complex and the operator's output is not: "
            f"{_chain(operator, template, output)} -> observation {_described(observation)}"
        )


def _require_position(likelihood: LinearGaussian, x: PyTree) -> None:
    if _shapes(x) == _shapes(likelihood.template):
        return
    operator, template = likelihood.operator, likelihood.template
    output = jax.eval_shape(lambda x: apply(operator, x), template)
    raise TargetError(
        f"prior and operator do not fit: prior {_described(x)} -> "
        f"{_chain(operator, template, output)} -> observation {_described(likelihood.observation)}"
    )


def _shapes(tree: PyTree) -> Any:
    return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _chain(operator: Any, template: PyTree, output: PyTree = None) -> str:
    made = "" if output is None else f" to {_described(output)}"
    return f"operator {name_of(operator)} from {_described(template)}{made}"


def _described(tree: PyTree) -> str:
    return describe(jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), tree))
