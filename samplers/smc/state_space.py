"""State-space models as Feynman-Kac models: bootstrap and guided filters.

    bootstrap:   M_t = transition,          log G_t = log p(y_t | x_t)
    guided:      M_t = q(x_t | x_{t-1}, y_t),
                 log G_t = log p(y_t | x_t) + log p(x_t | x_{t-1}) - log q(x_t | x_{t-1}, y_t)

Z is p(y_0..y_T) for both, and Q the law of the path given all data.

References
----------
.. [1] N. J. Gordon, D. J. Salmond, A. F. M. Smith, "Novel approach to nonlinear/non-Gaussian
   Bayesian state estimation", IEE Proc. F 140, 1993, doi:10.1049/ip-f-2.1993.0015.
.. [2] N. Chopin, O. Papaspiliopoulos, "An introduction to sequential Monte Carlo", Springer, 2020,
   doi:10.1007/978-3-030-47845-2. Sections 10.3.1 and 10.3.2.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl import laws
from ppl.energy import Energy, TargetError
from ppl.state_space import StateSpaceModel
from samplers.smc import feynman_kac as fk


class Filtering(fk.FeynmanKac):
    """A state-space model, filtered with proposals; without them, by its own transitions.

    Particles are states as the user sees them; a row is a time and its data.

    Raises
    ------
    TargetError
        If a proposal is no law of a state, or if the model lacks the densities that weigh it.
    """

    model: StateSpaceModel
    proposal: Callable[..., Any] | None = None
    initial_proposal: Callable[..., Any] | None = None

    def __check_init__(self) -> None:
        t, y = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.model.rows)
        if self.initial_proposal is not None:
            self._check("initial_proposal", self.initial_proposal, y)
        if self.proposal is not None:
            self._check("proposal", self.proposal, t, self.model.state_template, y)

    def _check(self, what: str, fn: Callable[..., Any], *args: Any) -> None:
        if not self.model.has_density:
            raise TargetError(f"{what} is weighed by the model: {self.model.refuse('log_density')}")

        def law(*args: Any) -> None:
            found = laws.laws_of(what, fn, *args, *self.model.parameters)
            if not laws.are_distributions(found):
                raise TargetError(f"{what} must return NumPyro distributions: it is evaluated")
            laws.require_values(what, found, self.model.state_template, "a state")

        jax.eval_shape(law, *args)

    @property
    def rows(self) -> PyTree:
        """What a run is told after the start."""
        return jax.tree.map(lambda x: x[1:], self.model.rows)

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[PyTree, Float[Array, " n"]]:
        particles = jax.vmap(self._draw_initial)(random.split(rng_key, n))
        return particles, self.log_start_potential(particles)

    def advance(
        self, rng_key: PRNGKeyArray, particles: PyTree, row: Any
    ) -> tuple[PyTree, Float[Array, " n"]]:
        keys = random.split(rng_key, jax.tree.leaves(particles)[0].shape[0])
        after = jax.vmap(self._draw_next, (0, 0, None))(keys, particles, row)
        return after, self.log_potential(particles, after, row)

    def log_start_potential(self, particles: PyTree) -> Float[Array, " n"]:
        row = jax.tree.map(lambda x: x[0], self.model.rows)

        def one(x: PyTree) -> Float[Array, ""]:
            log_g = self.model.log_observation(row[0], x, row[1])
            if self.initial_proposal is None:
                return log_g
            return log_g + self.model.log_initial(x) - laws.log_prob(self._initial_law(), x)

        return jax.vmap(one)(particles)

    def log_potential(self, before: PyTree, particles: PyTree, row: Any) -> Float[Array, " n"]:
        def one(before: PyTree, x: PyTree) -> Float[Array, ""]:
            log_g = self.model.log_observation(row[0], x, row[1])
            if self.proposal is None:
                return log_g
            log_p = self.model.log_transition(row[0], before, x)
            return log_g + log_p - laws.log_prob(self._law(before, row), x)

        return jax.vmap(one)(before, particles)

    def log_move(self, before: PyTree, particles: PyTree, row: Any) -> Float[Array, " n"]:
        def one(before: PyTree, x: PyTree) -> Float[Array, ""]:
            if self.proposal is None:
                return self.model.log_transition(row[0], before, x)
            return laws.log_prob(self._law(before, row), x)

        return jax.vmap(one)(before, particles)

    def _draw_initial(self, rng_key: PRNGKeyArray) -> PyTree:
        if self.initial_proposal is None:
            return self.model.draw_initial(rng_key)
        return laws.draw(rng_key, self._initial_law(), self.model.state_template)

    def _draw_next(self, rng_key: PRNGKeyArray, before: PyTree, row: Any) -> PyTree:
        if self.proposal is None:
            return self.model.draw_transition(rng_key, row[0], before)
        return laws.draw(rng_key, self._law(before, row), self.model.state_template)

    def _initial_law(self) -> PyTree:
        assert self.initial_proposal is not None
        y = jax.tree.map(lambda x: x[0], self.model.data)
        return self.initial_proposal(y, *self.model.parameters)

    def _law(self, before: PyTree, row: Any) -> PyTree:
        assert self.proposal is not None
        return self.proposal(row[0], before, row[1], *self.model.parameters)


def as_proposal(name: str) -> Callable[[Any], Any]:
    """Field converter: a function, or None."""

    def convert(value: Any) -> Any:
        if value is None or callable(value) or type(value) is object:
            return value
        raise ValueError(
            f"{name} must be a function that returns a NumPyro distribution, or None; got {value!r}"
        )

    return convert


def require_state_space(name: str, target: Energy) -> StateSpaceModel:
    """Return the model, where the target is one whose parameters are fixed."""
    if not isinstance(target, StateSpaceModel):
        raise TargetError(
            f"{name} runs on a ppl.StateSpaceModel, at fixed parameters: target.at(parameters); "
            f"got {type(target).__name__}. For parameters with a prior use "
            "samplers.ParticleMetropolis()"
        )
    return target
