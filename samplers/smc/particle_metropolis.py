"""Particle marginal Metropolis-Hastings (PMMH): parameters of a state-space model, and its path.

    theta' = theta + s A xi,   xi ~ N(0, I);   Zhat', x' from a particle filter at theta'
    accepted with probability  min(1, p(theta') Zhat' / (p(theta) Zhat))               [1]

Zhat is unbiased for p(y | theta), which makes the chain of (theta, x) exact for any number of
particles, with x drawn from the filter's paths; Zhat stays what it was until the next acceptance.
Its noise costs acceptance: with a standard deviation sigma of log Zhat no more than
2 Phi(-sigma / sqrt 2) of the proposals are taken, however short the step. The number of particles
that pays most gives a sigma of about 1.2 [2] to 1.8 [3], and must grow with the number of times.

Neither gradients nor transition densities are needed: a model that can be simulated, and whose
observations have a density, is enough. Warm-up tunes s, and A to the covariance of the parameters,
on their unconstrained space.

References
----------
.. [1] C. Andrieu, A. Doucet, R. Holenstein, "Particle Markov chain Monte Carlo methods", J. R.
   Stat. Soc. B 72, 2010, doi:10.1111/j.1467-9868.2009.00736.x. Section 4.4.
.. [2] A. Doucet, M. K. Pitt, G. Deligiannidis, R. Kohn, "Efficient implementation of Markov chain
   Monte Carlo when using an unbiased likelihood estimator", Biometrika 102, 2015, arXiv:1210.1871.
.. [3] C. Sherlock, A. H. Thiery, G. O. Roberts, J. S. Rosenthal, "On the efficiency of pseudo-
   marginal random walk Metropolis algorithms", Ann. Statist. 43, 2015, arXiv:1309.7209.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, MarkovKernel, Record, WarmUp, fraction, positive, size
from ppl.state_space_posterior import StateSpacePosterior
from ppl.template import dimension
from samplers.mcmc.metrics import Metric
from samplers.mcmc.metropolis import accept, illegal
from samplers.mcmc.windows import WindowWarmUp, optional, resolved
from samplers.smc import feynman_kac as fk
from samplers.smc.conditional import conditional_run
from samplers.smc.resampling import multinomial
from samplers.smc.state_space import Filtering, as_proposal

SCALE = 2.38  # times the root of the dimension: best for a round target without noise


class ParticleMetropolisState(NamedTuple):
    """Parameters and path, log prior of the parameters, estimate of the log-likelihood (nats)."""

    position: PyTree
    log_prior: Float[Array, ""]
    log_likelihood: Float[Array, ""]


class ParticleMetropolisInfo(NamedTuple):
    """What the Metropolis test said; ``diverging`` where the proposal has no density.

    ``log_likelihood`` is the estimate at where the chain is now, ``num_illegal`` counts the
    particles of the proposal that died of a NaN or infinite likelihood.
    """

    acceptance_rate: Float[Array, ""]
    is_accepted: Bool[Array, ""]
    diverging: Bool[Array, ""]
    log_likelihood: Float[Array, ""]
    num_illegal: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class ParticleMetropolis(MarkovKernel):
    """Particle marginal Metropolis-Hastings on a `ppl.StateSpacePosterior`: exact.

    Parameters
    ----------
    num_particles
        Of the filter; so many that the log-likelihood at one place varies by 1 to 2.
    step_size
        The s above, in units of the metric; where warm-up starts from. None: 2.38 over the root of
        the number of parameters.
    metric
        The A above: `Identity`, `Diagonal`, `Dense` or `LowRank` of `samplers.mcmc.metrics`. None:
        dense up to 250 parameters. Tuned in warm-up.
    target_acceptance
        Mean acceptance rate that warm-up tunes the step size to: between the 0.07 that is best with
        a noisy likelihood [3] and the 0.234 that is best without noise.
    proposal, initial_proposal, resample_below, resampling
        As in `ParticleFilter`.

    Raises
    ------
    TargetError
        If the target is no `ppl.StateSpacePosterior`, or if a proposal does not fit.

    Differences from the paper
    --------------------------
    A chain that starts at given parameters and a given path keeps both: its first estimate is that
    of a conditional run, so that with multinomial resampling a chain that starts from the target
    stays there from the first step on.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"state_space"})
    exactness: ClassVar[Exactness] = "exact"

    num_particles: int = size("num_particles", minimum=2, default=200)
    step_size: Float[Array, ""] | None = optional(positive("step_size"))
    metric: Metric | None = None
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.15)
    proposal: Callable[..., Any] | None = eqx.field(default=None, converter=as_proposal("proposal"))
    initial_proposal: Callable[..., Any] | None = eqx.field(
        default=None, converter=as_proposal("initial_proposal")
    )
    resample_below: Float[Array, ""] = fraction("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)

    def check(self, target: Energy) -> None:
        if not isinstance(target, StateSpacePosterior):
            raise TargetError(
                "ParticleMetropolis moves parameters that have a prior: "
                f"ppl.StateSpacePosterior(prior, model, *data); got a {type(target).__name__}"
            )
        resolved(self, target.prior)

    def resolve(self, target: Any) -> "ParticleMetropolis":
        kernel = self
        if self.step_size is None:
            s = SCALE / dimension(target.prior.template) ** 0.5
            kernel = eqx.tree_at(
                lambda k: k.step_size, self, jnp.asarray(s), is_leaf=lambda x: x is None
            )
        return resolved(kernel, target.prior)

    def warmup(self, target: Energy) -> "ParametersWarmUp":
        return ParametersWarmUp(WindowWarmUp(target_acceptance=self.target_acceptance))

    def init(
        self, rng_key: PRNGKeyArray, target: Any, position: Position
    ) -> ParticleMetropolisState:
        model, path = target.state_space(position)
        filtering = Filtering(model, self.proposal, self.initial_proposal)
        _, run = conditional_run(
            rng_key, filtering, filtering.rows, self.num_particles, model.constrain(path),
            threshold=self.resample_below,
        )  # fmt: skip
        log_prior = target.prior.log_density(position["parameters"])
        return ParticleMetropolisState(position, log_prior, run.log_evidence)

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: ParticleMetropolisState
    ) -> tuple[ParticleMetropolisState, ParticleMetropolisInfo]:
        assert self.metric is not None, "resolve(target) first, as ppl.sample does"
        assert self.step_size is not None
        key_noise, key_filter, key_path, key_accept = random.split(rng_key, 4)
        x, unravel = ravel_pytree(state.position["parameters"])
        noise = random.normal(key_noise, x.shape, x.dtype)
        parameters = unravel(x + self.metric.scale(self.step_size.astype(x.dtype) * noise))

        model = target.at(target.prior.constrain(parameters))
        filtering = Filtering(model, self.proposal, self.initial_proposal)
        resampler = fk.Resampler(self.resample_below, self.resampling)
        run = fk.run(
            key_filter, filtering, filtering.rows, self.num_particles, resampler, keep_path=True
        )
        last = multinomial(key_path, run.population.log_weights, 1)
        paths = fk.lineages(run.history.ancestors, run.path, last)
        path = model.unconstrain(jax.tree.map(lambda x: x[:, 0], paths))
        log_prior = target.prior.log_density(parameters)
        position = {"parameters": parameters, "path": path}
        proposed = ParticleMetropolisState(position, log_prior, run.log_evidence)

        after, before = log_prior + run.log_evidence, state.log_prior + state.log_likelihood
        diverging = illegal(after)
        log_ratio = jnp.where(diverging | run.dead, -jnp.inf, after - before)
        state, acceptance_rate, is_accepted = accept(key_accept, log_ratio, proposed, state)
        return state, ParticleMetropolisInfo(
            acceptance_rate,
            is_accepted,
            diverging,
            state.log_likelihood,
            run.num_illegal,
            jnp.array([self.num_particles, 0], jnp.int32),
        )


class ParametersWarmUp(WarmUp):
    """A warm-up by windows that looks at the parameters alone."""

    inner: WindowWarmUp

    def windows(self, num_steps: int) -> list[int]:
        return self.inner.windows(num_steps)

    def init(self, rng_key: PRNGKeyArray, target: Any, kernel: Any, states: Any) -> tuple[Any, Any]:
        return self.inner.init(rng_key, target.prior, kernel, _Positions(_own(states.position)))

    def step(self, kernel: Any, adaptation: Any, infos: Any) -> tuple[Any, Any]:
        return self.inner.step(kernel, adaptation, infos)

    def end_chunk(
        self,
        rng_key: PRNGKeyArray,
        target: Any,
        kernel: Any,
        adaptation: Any,
        states: Any,
        record: Record,
        count: Int[Array, ""],
        window_ends: Bool[Array, ""],
        is_last: Bool[Array, ""],
    ) -> tuple[Any, Any, Any]:
        own = Record(_own(record.position), record.info, record.watched)
        kernel, adaptation, _ = self.inner.end_chunk(
            rng_key, target.prior, kernel, adaptation, (), own, count, window_ends, is_last
        )
        return kernel, adaptation, states


class _Positions(NamedTuple):
    position: PyTree


def _own(position: Position) -> Position:
    return position["parameters"]
