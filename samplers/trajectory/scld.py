"""Sequential controlled Langevin diffusions (SCLD): CMCD in segments, resampled between them.

    log G = log pi_b_j(x_j) - log pi_b_i(x_i) + sum_n log P_B(x_n | x_n+1) - log P_F(x_n+1 | x_n)
    minimize  the mean over segments i .. j of  Var_W log G                        ([1], section 4)

The kernels are those of `samplers.CMCD`. A segment is a move of a Feynman-Kac model with the
potential G: particles are weighed by it and resampled where the effective sample size is low, and
a Langevin step with a Metropolis test moves them at the level reached. Each segment is trained on
its own, by the variance of its log-weights over the particles, which are data: where the law of x_n
is pi_b_n at both ends, all weights of the segment are alike. Draws are a population at a time,
asymptotically exact; their mean weight is unbiased for Z.

Without control, and within a level, a step adds to log G what its Metropolis test would look at,

    log pi_b(x') P_B(x | x') - log pi_b(x) P_F(x' | x),    accepted 2 Phi(-sd / 2) of the time

if it is Gaussian: the rate at which moves are accepted says how uneven steps make the weights.
Training shortens steps by it, segment by segment, since the variance along given paths says nothing
of paths in other steps, and made them longer. In steps of 0.02 s^2, whatever the target, a
population of 128 had a log Z off by 1.8 on 25 modes, which no control can mend: the noise of the
last step alone was wider than a mode.

W, held fixed, are the weights after the segment, to a power that leaves half of the particles: so
weighted, its paths come near the law of backward paths from pi_b_j, as far as there are enough.
Any law may be taken, and of all particles alike the variance has, along the sampler's own paths,
the gradient of reverse KL, which leaves out what is hard to reach: on the funnel it took log Z from
0.7 too low to 1.0 too low, with a loss of 40,000 at first that is all of paths which count for
nothing. By the full weights, in 1,600 dimensions, one particle would be all there is to learn from.

References
----------
.. [1] Chen, Richter, Berner, Blessing, Neumann and Anandkumar, "Sequential controlled Langevin
   diffusions", ICLR 2025, arXiv:2412.07081. Algorithm 1.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.energy import Energy, Position
from ppl.sampler import Exactness, LearnedSampler, fraction, positive, size
from samplers.descent import adam, begin, descend, is_finite
from samplers.mcmc.metropolis import accept
from samplers.smc import feynman_kac as fk
from samplers.smc.path import next_inverse_temperature
from samplers.trajectory.cmcd import AnnealedLangevin, Annealing, annealed_langevin, untrained
from samplers.trajectory.control import small
from samplers.trajectory.kernels import Law, Look, Reward, flattened, held, score_steps, walk

FLOOR = -1e5  # of log R in training, in nats
BATCH = 1024
KEPT = 0.5  # effective share of the particles that a segment learns from, at least
FEW = 10  # families, in effect, from which a population can still tell its error
LIMIT = 4.9  # standard errors by which log Z falls where training does harm


class Particle(NamedTuple):
    """Where a particle is and what the target is there; and the states of its last segment.

    ``acceptance_rate`` is that of its move.
    """

    x: Any
    look: Look
    trail: Any
    trail_looks: Look
    acceptance_rate: Any


class Segments(fk.FeynmanKac):
    """From pi_0, segments of ``length`` steps; the row is the number of a segment's first step."""

    kernels: AnnealedLangevin
    length: int = eqx.field(static=True)

    def start(self, rng_key: PRNGKeyArray, n: int) -> tuple[Particle, Float[Array, " n"]]:
        x = jax.vmap(self.kernels.start)(random.split(rng_key, n))
        look = jax.vmap(self.kernels.reward.with_gradient)(x)
        trail = lambda leaf: jnp.repeat(leaf[:, None], self.length + 1, axis=1)
        trails, nothing = jax.tree.map(trail, (x, look)), jnp.zeros(n, x.dtype)
        return Particle(x, look, trails[0], trails[1], nothing), nothing

    def advance(
        self, rng_key: PRNGKeyArray, particles: Particle, row: Any
    ) -> tuple[Particle, Float[Array, " n"]]:
        key_walk, key_move = random.split(rng_key)
        states, looks, log_pf, log_pb = walk(
            key_walk, self.kernels, particles.x, row, self.length, look=particles.look
        )
        assert looks is not None  # of guided kernels
        log_g = self.log_potentials(row, states, looks, log_pf, log_pb)
        keys, last = random.split(key_move, len(log_g)), jax.tree.map(lambda x: x[-1], looks)
        move = jax.vmap(self.move, (0, None, 0))
        (x, look), rate = move(keys, row + self.length, (states[-1], last))
        trail, trail_looks = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (states, looks))
        return Particle(x, look, trail, trail_looks, rate), log_g

    def log_potentials(
        self, row: Any, states: Array, looks: Look, log_pf: Array, log_pb: Array
    ) -> Float[Array, " n"]:
        """Log G of each particle; time is the leading axis."""
        level = jax.vmap(self.kernels.log_level, (None, 0, 0))
        before = level(row, states[0], looks.log_reward[0])
        after = level(row + self.length, states[-1], looks.log_reward[-1])
        return after - before + jnp.sum(log_pb - log_pf, axis=0)

    def move(
        self, rng_key: PRNGKeyArray, n: Any, here: tuple[Array, Look]
    ) -> tuple[tuple[Array, Look], Float[Array, ""]]:
        """The last Langevin step to the n-th level, without control, and a Metropolis test.

        Returns where the particle is then and what the target is there, and the acceptance rate.
        """
        key_noise, key_accept = random.split(rng_key)

        def law(x: Array, look: Look) -> Law:
            return self.kernels.backward(n - 1, x, jnp.zeros_like(x), look)

        ahead = law(*here)
        x = ahead.mean + ahead.sd * random.normal(key_noise, ahead.mean.shape, ahead.mean.dtype)
        there = x, self.kernels.reward.with_gradient(x)
        level = lambda x, look: self.kernels.log_level(n, x, look.log_reward)
        ways = law(*there).log_density(here[0]) - ahead.log_density(x)
        log_ratio = level(*there) - level(*here) + ways
        moved, rate, _ = accept(key_accept, log_ratio, there, here)
        return moved, rate


class SCLDState(NamedTuple):
    """What is learned, log of the factor of each segment's lengths of steps, Adam's moments."""

    learned: Annealing
    log_length: Float[Array, " segment"]
    optimizer: Any


class SCLDInfo(NamedTuple):
    """An update, judged by its population.

    ``loss`` is the mean variance of a segment's log-weights; ``log_evidence`` that of the run, in
    nats, with the error that common ancestors tell of; ``ess`` the share of the particles that the
    last weights are worth; ``families`` how many of the start they descend from, in effect:
    1 / sum W^2 of the shares of families; ``resampled`` how often the population was, of the times
    that it could have been; ``acceptance_rate`` that of the moves, weighted by W.
    """

    loss: Float[Array, ""]
    log_evidence: Float[Array, ""]
    log_evidence_error: Float[Array, ""]
    ess: Float[Array, ""]
    families: Float[Array, ""]
    resampled: Float[Array, ""]
    acceptance_rate: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class SCLD(LearnedSampler):
    """Sequential controlled Langevin diffusions: asymptotically exact.

    Parameters
    ----------
    num_segments, steps_per_segment
        How often the population may be resampled, and the Langevin steps in between.
    num_updates
        Adam updates; the learning rate falls to zero along a half cosine over them.
    num_particles
        Of a population: one an update, and as many as make the draws.
    target_acceptance
        Rate of the moves, in a segment where it is lower training shortens the steps. With a higher
        one weights are more even, and particles mix less.
    ess_threshold
        Share of the particles under which the population is resampled.
    learning_rate
        Of the first update.
    scale, step_size, smallest, network, gradient_clip
        As in `samplers.CMCD`; the second and third give the longest steps.

    Notes
    -----
    Draws are made in independent populations, whose spread gives the error of log Z: resampled
    particles that descend from few look alike in their weights, and the run says so. It also says
    where log Z has fallen in training: on a regression of 31 dimensions a loss that fell from 40 to
    2 came with one key to a log Z off by 2.5, where it was off by 8 without training, and
    with another to one off by 60. The loss is a variance, and knows nothing of the level.

    Differences from the paper
    --------------------------
    One Langevin step with a Metropolis test after each segment, before it is resampled, in place of
    HMC with ten leapfrog steps after. No learned reference, and no replay buffer: the weights stand
    in for the priorities of one. Resampling is stratified. Steps go by the shortened gradient of
    `samplers.CMCD`, and their lengths by acceptance, where the authors choose and learn them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density", "gradient"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    num_segments: int = size("num_segments", default=8)
    steps_per_segment: int = size("steps_per_segment", default=5)
    num_updates: int = size("num_updates", default=500)
    num_particles: int = size("num_particles", minimum=2, default=128)
    ess_threshold: Float[Array, ""] = fraction("ess_threshold", default=0.3)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=2e-3)
    scale: Float[Array, ""] = positive("scale", default=2.0)
    step_size: Float[Array, ""] = positive("step_size", default=0.02)
    smallest: Float[Array, ""] = positive("smallest", default=0.1)
    network: Any = eqx.field(static=True, default=small)
    gradient_clip: Float[Array, ""] = positive("gradient_clip", default=100.0)
    target_acceptance: Float[Array, ""] = fraction("target_acceptance", default=0.85)

    @property
    def batch_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whole populations."""
        return -(-BATCH // self.num_particles) * self.num_particles

    @property
    def draws_together(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A population."""
        return self.num_particles

    # Training --------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> SCLDState:
        template = flattened(target).template
        learned = untrained(
            rng_key, self.network, template.shape[0], self._num_steps, template.dtype
        )
        log_length = jnp.zeros(self.num_segments, template.dtype)
        return SCLDState(learned, log_length, begin(self._optimizer, learned))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: SCLDState
    ) -> tuple[SCLDState, SCLDInfo]:
        model = self._model(target, held(state.learned), state.log_length)
        run = self._run(rng_key, model, self.num_particles, keep_path=True)
        assert run.path is not None
        # Time first within a segment; the first entry of the path is the start.
        trails, looks = jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf[1:], 1, 2), (run.path.trail, run.path.trail_looks)
        )
        looks = looks._replace(log_reward=jnp.maximum(looks.log_reward, FLOOR))

        def loss_of(learned: Annealing) -> tuple[Array, Array]:
            learned = eqx.tree_at(lambda x: x.log_length, learned, replace_fn=lax.stop_gradient)
            model = self._model(target, learned, state.log_length)

            def one(row: Array, states: Array, looks: Look) -> Array:
                scores = score_steps(model.kernels, states, looks, row)
                return model.log_potentials(row, states, looks, *scores)

            log_g = jax.vmap(one)(self._rows, trails, looks)
            shares = shares_of(log_g, run.history.resampled)
            return jnp.mean(variance(log_g, shares)), shares

        (loss, shares), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(state.learned)
        rates = jnp.sum(shares * run.path.acceptance_rate[1:], axis=1)
        longer = state.log_length + rates - self.target_acceptance.astype(rates.dtype)
        log_length = jnp.minimum(longer, 0)
        fine = is_finite(loss, gradient)
        updated = descend(self._optimizer, gradient, state.optimizer, state.learned, fine)
        population = run.population
        share = weights.ess(population.log_weights) / self.num_particles
        learned, optimizer = updated
        return SCLDState(learned, log_length, optimizer), SCLDInfo(
            loss,
            run.log_evidence,
            fk.log_evidence_error(population),
            share,
            1 / jnp.sum(fk.families(population) ** 2),
            jnp.mean(run.history.resampled.astype(share.dtype)),
            jnp.mean(rates),
            ~fine,
            jnp.array(self._cost(self.num_particles), jnp.int32),
        )

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        quarter = max(1, len(history["families"]) // 4)
        families = float(history["families"][-quarter:].mean())
        told = []
        if families < FEW:
            told.append(
                f"the {self.num_particles} particles of a population descend from {families:.1f} "
                "at its start, in effect: their weights do not show how few are independent, and "
                "log Z is low by more than its error. Write more num_particles, num_segments or "
                "num_updates"
            )
        # The mean weight is unbiased, and so its logarithm low on average, whatever is learned. A
        # population without any weight has none.
        log_evidence = history["log_evidence"][np.isfinite(history["log_evidence"])]
        quarter = len(log_evidence) // 4
        if quarter < 8:
            return told
        first, last = log_evidence[:quarter], log_evidence[-quarter:]
        fall, error = first.mean() - last.mean(), np.hypot(first.std(), last.std()) / quarter**0.5
        if fall > max(1, LIMIT * error):
            told.append(
                f"training made draws worse: log Z of a population fell from {first.mean():.1f} in "
                f"the first quarter of the updates to {last.mean():.1f} in the last, and it is too "
                "low rather than too high. Write fewer num_updates or a smaller learning_rate"
            )
        return told

    # Draws -----------------------------------------------------------------------------------

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: SCLDState, n: int
    ) -> tuple[Position, Float[Array, " n"]]:
        model = self._model(target, state.learned, state.log_length)

        def population(key: PRNGKeyArray) -> tuple[Array, Array]:
            key_run, key_order = random.split(key)
            found = self._run(key_run, model, self.num_particles, keep_path=False).population
            # Resampling leaves particles in order, and the first few would not be like all.
            order = random.permutation(key_order, self.num_particles)
            # Their mean is the run's estimate of Z.
            log_weights = found.log_weights + found.log_evidence
            return found.particles.x[order], log_weights[order]

        drawn = jax.vmap(population)(random.split(rng_key, self._num_populations(n)))
        x, log_weights = (leaf.reshape(-1, *leaf.shape[2:])[:n] for leaf in drawn)
        return jax.vmap(model.kernels.reward.target.unravel)(x), log_weights

    def evaluations(self, n: int) -> tuple[int, int]:
        return self._cost(self._num_populations(n) * self.num_particles)

    # Parts -----------------------------------------------------------------------------------

    def _num_populations(self, n: int) -> int:
        return -(-n // self.num_particles)

    def _cost(self, n: int) -> tuple[int, int]:
        """The start, and of each segment its steps and the move."""
        number = n * (1 + self.num_segments * (self.steps_per_segment + 1))
        return number, number

    @property
    def _num_steps(self) -> int:
        return self.num_segments * self.steps_per_segment

    @property
    def _rows(self) -> Int[Array, " segment"]:
        return jnp.arange(self.num_segments, dtype=jnp.int32) * self.steps_per_segment

    def _model(self, target: Energy, learned: Annealing, log_length: Array) -> Segments:
        reward = Reward(flattened(target), self.gradient_clip)
        kernels = annealed_langevin(reward, learned, self.scale, self.step_size, self.smallest)
        longer = jnp.repeat(jnp.exp(log_length), self.steps_per_segment)
        kernels = eqx.tree_at(lambda x: x.length, kernels, kernels.length * longer)
        return Segments(kernels, self.steps_per_segment)

    def _run(self, rng_key: PRNGKeyArray, model: Segments, n: int, *, keep_path: bool) -> fk.Run:
        resampler = fk.Resampler(self.ess_threshold)
        return fk.run(rng_key, model, self._rows, n, resampler, keep_path=keep_path)

    @property
    def _optimizer(self) -> Any:
        return adam(self.learning_rate, self.num_updates)


def shares_of(
    log_g: Float[Array, "segment n"], resampled: Bool[Array, " segment"]
) -> Float[Array, "segment n"]:
    """W: weights that particles have after each segment, to a power that leaves half of them."""

    def weigh(carried: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        log_g, resampled = at
        after = jnp.where(resampled, 0, carried) + log_g
        return after, after

    def shares(log_weights: Array) -> Array:
        equal = jnp.zeros_like(log_weights)
        kept = jnp.asarray(KEPT, log_weights.dtype)
        power = next_inverse_temperature(log_weights, equal, equal[0], kept)
        return weights.probabilities(power * log_weights)

    held = lax.stop_gradient(log_g)
    _, log_weights = lax.scan(weigh, jnp.zeros_like(held[0]), (held, resampled))
    return jax.vmap(shares)(log_weights)


def variance(
    log_g: Float[Array, "segment n"], shares: Float[Array, "segment n"]
) -> Float[Array, " segment"]:
    """Variance of log G over the particles of each segment, by their shares."""
    mean = jnp.sum(shares * log_g, axis=1, keepdims=True)
    return jnp.sum(shares * (log_g - mean) ** 2, axis=1)
