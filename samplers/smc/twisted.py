"""Twisted sequential Monte Carlo: sequences of a language model, steered by learned twists.

    target     sigma(s) = p(s) phi(s) / Z,   p(s) = prod_t p(s_t | s_<t),   phi = exp(reward)
    prefixes   pi_t(s_1..t)  ~  p(s_1..t) psi_t(s_1..t),   psi_0 = 1,   psi_T = phi
    proposal   q(s_t | s_<t)  ~  p(s_t | s_<t) psi_t(s_1..t)
    weights    log G_t = log p(s_t | s_<t) - log q(s_t | s_<t) + log psi_t - log psi_{t-1}

A reward is known at the end of a sequence only. A twist psi_t says of a prefix what reward may be
hoped for; the best one is psi*_t = E_p[phi(s) | s_1..t], with which all weights are equal and one
particle knows Z. Any other positive twist leaves the weights exact: draws are consistent and Z is
unbiased, whatever was learned. The particles are token buffers, run by `samplers.smc.feynman_kac`.

Twists are learned by one of two objectives:

- contrastive [1]: at each place, more twist where sigma has its prefixes, less where
  pi_t has, the gradient of KL(sigma_t | pi_t) summed over t,

      E_sigma[grad log psi_t(s_1..t)] - E_pi_t[grad log psi_t(s_1..t)]

  both expectations by weighted rollouts of the present proposal, without resampling;
- value [2]: log psi_t = E_p[log phi | s_1..t], by regression on rollouts of the model. The mean of
  the reward is not the logarithm of the mean of phi (it is lower, by half the variance to first
  order), which is why decoding by it alone is biased; here the weights make up for it.

What ends early is done with: the twist of a finished sequence is phi itself, for the end token of
every row, so that a reward is evaluated at each place. Without an end token it is once a sequence.

References
----------
.. [1] S. Zhao, R. Brekelmans, A. Makhzani, R. Grosse, "Probabilistic inference in language models
   via twisted sequential Monte Carlo", ICML 2024, arXiv:2404.17546. Sections 3 and 4.
.. [2] S. Han, I. Shenfeld, A. Srivastava, Y. Kim, P. Agrawal, "Value augmented sampling for
   language model alignment and personalization", 2024, arXiv:2405.06639.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position, TargetError
from ppl.sampler import Exactness, LearnedSampler, positive, share, size, where
from ppl.sequence import SequenceModel, looks_ahead
from samplers.mcmc.metropolis import all_finite
from samplers.smc import feynman_kac as fk
from samplers.smc.conditional import conditional_run
from samplers.smc.twist_network import prefix_network, prefix_row, prefix_rows
from samplers.smc.twisted_model import Twist, TwistedModel

BATCH = 1024  # draws at a time, or a population
NEVER = fk.Resampler(None)


# What is learned --------------------------------------------------------------------------------


def contrastive(
    log_psi: Float[Array, "n length"],
    log_ratio: Float[Array, "n length"],
    log_phi: Float[Array, " n"],
) -> Float[Array, ""]:
    """Minus the mean log twist under sigma, plus that under pi_t, summed over places.

    ``log_ratio`` is log p - log q of each token. Weights hold no gradient.
    """
    log_psi_now, log_ratio = lax.stop_gradient((log_psi, log_ratio))
    positive = weights.probabilities(jnp.sum(log_ratio, axis=1) + log_phi)
    negative = weights.probabilities((jnp.cumsum(log_ratio, axis=1) + log_psi_now).T).T
    finite = jnp.isfinite(log_psi)
    return jnp.sum((negative - positive[:, None]) * jnp.where(finite, log_psi, 0))


def value(
    log_psi: Float[Array, "n length"],
    log_ratio: Float[Array, "n length"],
    log_phi: Float[Array, " n"],
) -> Float[Array, ""]:
    """Mean square of log twist less log phi, over rollouts of the model."""
    known = jnp.isfinite(log_psi) & jnp.isfinite(log_phi)[:, None]
    square = jnp.where(known, log_psi - jnp.where(known, log_phi[:, None], 0), 0) ** 2
    return jnp.sum(square) / jnp.maximum(jnp.sum(known), 1)


OBJECTIVES = {"contrastive": contrastive, "value": value}


class TwistedState(NamedTuple):
    """Parameters of the twist, and Adam's moments."""

    params: Any
    optimizer: Any


class TwistedInfo(NamedTuple):
    """The objective before the update, and what the rollouts are worth as draws of the target.

    ``ess`` is the effective number of rollouts under the target; ``diverging`` where there was
    none, or a gradient that is not finite, and so no update.
    """

    loss: Float[Array, ""]
    ess: Float[Array, ""]
    log_evidence: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class TwistedSMC(LearnedSampler):
    """Twisted sequential Monte Carlo over sequences: asymptotically exact, with the evidence.

    Parameters
    ----------
    num_particles
        Particles of a population. Draws come from as many populations as they fill.
    num_updates
        Adam updates of the twist; 0: it stays as it is. The learning rate falls to zero along a
        half cosine over them.
    num_rollouts
        Sequences drawn for one update.
    learning_rate
        Of the first update.
    twist_fn
        ``twist_fn(params, tokens) -> (length, num_tokens)``: row t holds the log twist of the
        tokens before t continued by each token, up to a constant, and depends on those before t
        only; as `ppl.SequenceModel.logits_fn`. Or ``-> (length,)``, entry t the log twist of the
        tokens up to and with t: the proposal then tries every token. None: a small network.
    twist_params
        Its parameters, from which learning starts: arrays, or an Equinox module.
    twist_row_fn
        ``twist_row_fn(params, tokens, t) -> (num_tokens,)``: row t alone, where that is cheaper.
    objective
        ``"contrastive"`` or ``"value"``; the second needs a reward that is finite.
    proposal
        ``"twisted"``, or ``"base"``: tokens drawn from the model itself, with the twists in the
        weights alone.
    resample_below
        Resample where the effective sample size is at most this share of the particles.
    resampling
        ``"stratified"``, ``"systematic"``, ``"multinomial"``, ``"residual"`` or ``"ssp"``.

    Raises
    ------
    TargetError
        For a target that is no reward on a `ppl.SequenceModel`, or a twist that does not fit it,
        or looks ahead.

    Notes
    -----
    Particles of one population depend on each other: the errors of the evidence and of means are
    those between populations.

    Differences from the papers
    ---------------------------
    Twists of finished sequences are not learned but known. Values are regressed on whole returns,
    TD(1), and all tokens are weighed by them, not the most likely ones alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_likelihood"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_particles: int = size("num_particles", default=64)
    num_updates: int = size("num_updates", minimum=0, default=500)
    num_rollouts: int = size("num_rollouts", minimum=2, default=256)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=3e-3)
    twist_fn: Callable[..., Any] | None = eqx.field(static=True, default=None)
    twist_params: Any = None
    twist_row_fn: Callable[..., Any] | None = eqx.field(static=True, default=None)
    objective: str = eqx.field(static=True, default="contrastive")
    proposal: str = eqx.field(static=True, default="twisted")
    resample_below: Float[Array, ""] = share("resample_below", default=0.5)
    resampling: str = eqx.field(static=True, default="stratified")
    rewards_each: int = eqx.field(static=True, default=1)  # of a draw; `resolve` knows

    def __check_init__(self) -> None:
        fk.check_scheme(self.resampling)
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {[*OBJECTIVES]}; got {self.objective!r}")
        if self.proposal not in ("twisted", "base"):
            raise ValueError(f"proposal must be 'twisted' or 'base'; got {self.proposal!r}")
        given = self.twist_params is not None or self.twist_row_fn is not None
        if self.twist_fn is None and given:
            raise ValueError("twist_params and twist_row_fn belong to a twist_fn; none is given")

    def check(self, target: Energy) -> None:
        model = getattr(target, "prior", None)
        if not isinstance(model, SequenceModel):
            raise TargetError(
                "TwistedSMC draws sequences of a language model under a reward: "
                "ppl.tilt(ppl.SequenceModel(...), reward); the prior of this target is a "
                f"{type(model).__name__}"
            )
        if self.twist_fn is not None:
            _check_twist(self, model)

    def resolve(self, target: Any) -> "TwistedSMC":
        model: SequenceModel = target.prior
        each = 1 if model.end_token is None else model.length
        if self.twist_fn is not None:
            return replace(self, rewards_each=each)
        return replace(self, rewards_each=each, twist_fn=prefix_rows, twist_row_fn=prefix_row)

    # Learning ---------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Any) -> TwistedState:
        params, model = self.twist_params, target.prior
        if params is None and self.twist_fn is prefix_rows:
            params = prefix_network(rng_key, model.length, model.num_tokens)
        return TwistedState(params, self._optimizer.init(eqx.filter(params, eqx.is_inexact_array)))

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: TwistedState
    ) -> tuple[TwistedState, TwistedInfo]:
        # Values are those of the model's own continuations.
        twisted = self.objective == "contrastive" and self.proposal == "twisted"
        model = TwistedModel(target, self._twist(state), twisted)
        run = fk.run(rng_key, model, model.places, self.num_rollouts, NEVER)
        tokens = run.population.particles.tokens
        log_phi = weights.clean(jax.vmap(target.log_likelihood)(tokens))

        def loss_of(params: Any) -> tuple[Array, Array]:
            model = TwistedModel(target, self._twist(state._replace(params=params)), twisted)
            log_ratio, log_psi = jax.vmap(model.along)(tokens)
            return OBJECTIVES[self.objective](log_psi, log_ratio, log_phi), log_ratio

        (loss, log_ratio), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(state.params)
        learned = eqx.filter(state.params, eqx.is_inexact_array)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, learned)
        params = eqx.apply_updates(state.params, updates)
        log_weights = jnp.sum(log_ratio, axis=1) + log_phi
        fine = all_finite((loss, gradient)) & jnp.any(jnp.isfinite(log_weights))
        arrays, rest = eqx.partition(state, eqx.is_array)
        updated = where(fine, eqx.filter(TwistedState(params, optimizer), eqx.is_array), arrays)
        return eqx.combine(updated, rest), TwistedInfo(
            loss,
            weights.ess(log_weights),
            weights.log_mean_exp(log_weights),
            ~fine,
            jnp.array([self.num_rollouts * (self.rewards_each + 1), 0], jnp.int32),
        )

    # Drawing ----------------------------------------------------------------------------------

    def draw(
        self, rng_key: PRNGKeyArray, target: Any, state: TwistedState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        def population(key: PRNGKeyArray) -> tuple[Array, Array]:
            key_run, key_order = random.split(key)
            found = self._run(key_run, target, state).population
            # Resampling leaves particles in order, and the first few would not be like all.
            order = random.permutation(key_order, self.num_particles)
            log_weights = found.log_weights + found.log_evidence
            return found.particles.tokens[order], log_weights[order]

        keys = random.split(rng_key, -(-n // self.num_particles))
        drawn = jax.vmap(population)(keys)
        tokens, log_weights = (x.reshape(-1, *x.shape[2:])[:n] for x in drawn)
        return tokens, log_weights

    def log_evidence_of(
        self, rng_key: PRNGKeyArray, target: Any, state: TwistedState
    ) -> Float[Array, ""]:
        """Log-evidence of one population; its exponential is unbiased."""
        return self._run(rng_key, target, state).log_evidence

    def log_evidence_given(
        self, rng_key: PRNGKeyArray, target: Any, exact_draw: Position, state: TwistedState
    ) -> Float[Array, ""]:
        """Log-evidence of one population with an exact draw in it: from above on the average."""
        model = self.model(target, state)
        if self.num_particles == 1:
            log_ratio, _ = model.along(exact_draw)
            return jnp.sum(log_ratio) + target.log_likelihood(exact_draw)
        _, run = conditional_run(
            rng_key, model, model.places, self.num_particles, model.path(exact_draw),
            threshold=self.resample_below,
        )  # fmt: skip
        return run.log_evidence

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n * self.rewards_each, 0)

    @property
    def batch_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whole populations."""
        return -(-BATCH // self.num_particles) * self.num_particles

    @property
    def draws_together(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A population."""
        return self.num_particles

    def model(self, target: Any, state: TwistedState) -> TwistedModel:
        """The Feynman-Kac model that draws."""
        return TwistedModel(target, self._twist(state), self.proposal == "twisted")

    def _run(self, rng_key: PRNGKeyArray, target: Any, state: TwistedState) -> fk.Run:
        model = self.model(target, state)
        resampler = fk.Resampler(self.resample_below, self.resampling)
        return fk.run(rng_key, model, model.places, self.num_particles, resampler)

    def _twist(self, state: TwistedState) -> Twist:
        assert self.twist_fn is not None, "resolve(target) first, as ppl.sample does"
        return Twist(self.twist_fn, self.twist_row_fn, state.params)

    @property
    def _optimizer(self) -> Any:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, max(self.num_updates, 1)))


def _check_twist(sampler: TwistedSMC, model: SequenceModel) -> None:
    fn: Any = sampler.twist_fn
    shape = getattr(jax.eval_shape(fn, sampler.twist_params, model.template), "shape", None)
    if shape not in ((model.length,), (model.length, model.num_tokens)):
        raise TargetError(
            "twist_fn must return the log twist of every token at every place, (length, "
            f"num_tokens) = {(model.length, model.num_tokens)}, or of every prefix, "
            f"({model.length},); got {shape}"
        )
    later = 1 if len(shape) == 1 else 0  # an entry for a prefix looks at its last token
    if looks_ahead(fn, sampler.twist_params, model.length, model.num_tokens, later):
        raise TargetError(
            "twist_fn looks ahead: what it says of a prefix must depend on its own tokens only, "
            "and changed with later ones. Shift the tokens by one, or mask the model causally"
        )
    learned = jax.tree.leaves(eqx.filter(sampler.twist_params, eqx.is_inexact_array))
    if sampler.num_updates and not learned:
        raise TargetError(
            "twist_params hold no numbers to learn: give some, or write num_updates=0 for a twist "
            "that stays as it is"
        )
