"""Denoising diffusion training: a prior learned from data.

    minimize  E_t w(level_t) E |D(x_t, t) - x_0|^2,    x_t = alpha x_0 + sigma eps      ([1, 2, 3])

The minimum is the mean of the data given the noisy point, D(x, t) = E[x_0 | x_t = x], whatever the
weight; what network, weight and times do is how well it is found. ``step`` is one Adam update, and
what draws is a running average of the weights (EMA),

    a <- b_k a + (1 - b_k) theta,    b_k = min(ema_decay, (1 + k) / (10 + k))

Draws come from a solver of the reverse equation, `DiffusionSampler`, and the trained sampler has
the prior: ``draws.sampler.prior``, a `DiffusionPrior` for `ppl.posterior` and `ppl.tilt`. Biased:
by what the network has not learned, by the solver, and because the minimum for a finite data set is
that set itself, which a network comes near if it is large and trained for long.

References
----------
.. [1] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239. Algorithm 1.
.. [2] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364. Equation 2 and table 1.
.. [3] Vincent, "A connection between score matching and denoising autoencoders", Neural Computation
   23, 2011, doi:10.1162/NECO_a_00142.
.. [4] Ning et al., "Input perturbation reduces exposure bias in diffusion models", ICML 2023,
   arXiv:2301.11706. Algorithm 1.
.. [5] Ho and Salimans, "Classifier-free diffusion guidance", 2022, arXiv:2207.12598. Algorithm 1.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, TargetError
from ppl.sampler import (
    Exactness,
    LearnedSampler,
    fraction,
    nonnegative,
    positive,
    size,
    where,
)
from ppl.template import as_template, describe
from samplers.diffusion.losses import EDMWeight, LogNormalNoise, Preconditioned, Times, Weight
from samplers.diffusion.paths import EDM, NoisePath
from samplers.diffusion.points import is_array
from samplers.diffusion.prior import DiffusionPrior
from samplers.diffusion.sampler import DiffusionSampler
from samplers.mcmc.metropolis import all_finite
from samplers.networks import MLP


class TrainingState(NamedTuple):
    """The denoiser, its running average, the data's scale, Adam's moments, how many updates."""

    denoiser: Any
    average: Any
    sd: Float[Array, ""]
    optimizer: Any
    updates: Int[Array, ""]


class TrainingInfo(NamedTuple):
    """The weighed loss of an update; ``diverging`` where it was not finite, and no update."""

    loss: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


def update(
    optimizer: Any, state: TrainingState, loss: Array, gradient: Any, ema_decay: Array
) -> tuple[TrainingState, Bool[Array, ""]]:
    """One update of the network and its average; none, and False, where it is not finite."""
    updates, moments = optimizer.update(gradient, state.optimizer)
    denoiser = eqx.apply_updates(state.denoiser, updates)
    k = state.updates.astype(state.sd.dtype)
    b = jnp.minimum(ema_decay.astype(k.dtype), (1 + k) / (10 + k))
    average = jax.tree.map(
        lambda a, w: a + (1 - b) * (w - a) if eqx.is_inexact_array(a) else a,
        state.average,
        denoiser,
    )
    updated = TrainingState(denoiser, average, state.sd, moments, state.updates + 1)
    finite = all_finite((loss, eqx.filter(gradient, eqx.is_inexact_array)))
    kept = where(finite, *(eqx.filter(s, eqx.is_array) for s in (updated, state)))
    return eqx.combine(kept, state), finite


def _labels(value: Any) -> Any:
    if value is None or type(value) is object or isinstance(value, Tracer):
        return value
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, one class for each row; got {value!r}")
    return jnp.asarray(array, jnp.int32)


class DenoisingDiffusion(LearnedSampler):
    """Denoising diffusion training: biased, independent draws of the law of a data set.

    The target is `ppl.from_samples`. An update costs ``num_rows`` evaluations of the denoiser.

    Parameters
    ----------
    network
        ``network(rng_key, shape)`` makes a network ``(x, t)`` on points of this shape, or with
        ``labels`` ``network(rng_key, shape, num_classes=10)`` one ``(x, t, condition)``: `MLP`,
        `UNet`, ``functools.partial(samplers.MLP, width=256)``. A position that is no array is
        raveled to a vector.
    path
        Noise path, `samplers.diffusion.paths`.
    predicts
        What the network returns: `Preconditioned`, or a class of `samplers.diffusion.conversions`,
        ``PredictsNoise``, ``PredictsV``, ``PredictsVelocity``, ``PredictsDenoised``. Those see the
        point as it is on the path, so that it should be one where the points keep their size.
    weight
        w above, a function of the level: see `samplers.diffusion.losses`. By default EDM's.
    times
        Law of the times to train at.
    num_updates
        Adam updates; the learning rate falls to zero along a half cosine over them.
    num_rows
        Rows of the data in an update.
    learning_rate
        Of the first update.
    ema_decay
        The largest b above.
    perturbation
        Standard deviation of noise on the noise that the network is shown and is not told of [4];
        0.1 makes it robust against its own errors.
    labels
        A class for each row of the data, 0, 1, ..: the prior then has conditions.
    unlabeled
        Share of the rows that are shown without their label, for the law of all classes [5].
    noise
        The noise of each row, a position each, as `samplers.diffusion.reflow.couple` returns it; by
        default it is drawn anew, whatever the row.
    solver
        How the prior draws.

    Raises
    ------
    TargetError
        Before compilation: for data that are not floating, labels that are not one a row, or a
        network that does not return a point.

    Differences from the paper
    --------------------------
    The times of an update are spread evenly over their law. The levels of `LogNormalNoise` and the
    argument of a `Preconditioned` network are in units of the standard deviation of the data, whose
    mean is taken off.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    exactness: ClassVar[Exactness] = "biased"

    network: Any = eqx.field(static=True, default=MLP)
    path: NoisePath = eqx.field(default_factory=EDM)
    predicts: type = eqx.field(static=True, default=Preconditioned)
    weight: Weight | None = None
    times: Times = eqx.field(default_factory=LogNormalNoise)
    num_updates: int = size("num_updates", default=5000)
    num_rows: int = size("num_rows", default=256)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=2e-3)
    ema_decay: Float[Array, ""] = fraction("ema_decay", default=0.995)
    perturbation: Float[Array, ""] = nonnegative("perturbation", default=0.0)
    labels: Int[Array, " n"] | None = eqx.field(default=None, converter=_labels)
    unlabeled: Float[Array, ""] = fraction("unlabeled", default=0.2)
    noise: PyTree | None = None
    solver: DiffusionSampler = eqx.field(default_factory=DiffusionSampler)
    blank: DiffusionPrior | None = None

    # Before compilation ---------------------------------------------------------------------

    def check(self, target: Any) -> None:
        floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(target.template)]
        if not all(floating):
            raise TargetError(
                "DenoisingDiffusion adds Gaussian noise, so the data must be floating; rows of "
                f"these are {describe(target.template)}"
            )
        if self.labels is not None:
            labels = np.asarray(self.labels)
            if labels.shape != (target.num_data,) or labels.min() < 0:
                raise TargetError(
                    f"labels are one class a row, 0, 1, ..; got {labels.shape} from {labels.min()} "
                    f"on for {target.num_data} rows"
                )

        if self.noise is not None and describe(as_template(self.noise)) != describe(
            as_template(target.rows)
        ):
            raise TargetError(
                f"noise is one position for each row, {describe(as_template(target.rows))}; got "
                f"{describe(as_template(self.noise))}"
            )

    def resolve(self, target: Any) -> "DenoisingDiffusion":
        # The path is concrete here, so that tables are exact; the denoiser comes with the state.
        template, classes = target.template, self._num_classes
        blank = DiffusionPrior(
            self.path, _untrained, template, conditions=classes, sampler=self.solver
        )
        resolved = replace(self, blank=blank)

        def checked(rng_key: PRNGKeyArray, target: Any) -> Any:
            denoiser = resolved._denoiser(rng_key, *resolved._moments(target))
            return DiffusionPrior(self.path, denoiser, template, conditions=classes).center

        eqx.filter_eval_shape(checked, random.key(0), target)
        return resolved

    @property
    def _num_classes(self) -> int | None:
        return None if self.labels is None else int(np.max(np.asarray(self.labels))) + 1

    @property
    def _blank(self) -> DiffusionPrior:
        assert self.blank is not None, "resolve(target) first, as ppl.sample does"
        return self.blank

    def _moments(self, target: Any) -> tuple[Array, Float[Array, ""]]:
        """Mean and standard deviation of the data, the latter over all coordinates."""
        rows = jax.vmap(self._blank.flat)(target.rows)
        mean = jnp.mean(rows, axis=0)
        return mean, jnp.sqrt(jnp.mean((rows - mean) ** 2))

    def _denoiser(self, rng_key: PRNGKeyArray, mean: Array, sd: Float[Array, ""]) -> Any:
        point, template = self._blank.point, self._blank.template
        classes = {} if self._blank.conditions is None else {"num_classes": self._blank.conditions}
        network = jax.tree.map(
            lambda w: w.astype(point.dtype) if eqx.is_inexact_array(w) else w,
            self.network(rng_key, point.shape, **classes),
        )
        raveled = (lambda fn: fn) if is_array(template) else Raveled
        if self.predicts is Preconditioned:
            return raveled(Preconditioned(network, mean, sd))
        return self.predicts(raveled(network))

    # Training -------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Energy) -> TrainingState:
        mean, sd = self._moments(target)
        denoiser = self._denoiser(rng_key, mean, sd)
        optimizer = self._optimizer.init(eqx.filter(denoiser, eqx.is_inexact_array))
        return TrainingState(denoiser, denoiser, sd, optimizer, jnp.zeros((), jnp.int32))

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: TrainingState
    ) -> tuple[TrainingState, TrainingInfo]:
        batch = self.batch(rng_key, target, state.sd)
        loss, gradient = eqx.filter_value_and_grad(self.loss)(state.denoiser, *batch, state.sd)
        updated, finite = update(self._optimizer, state, loss, gradient, self.ema_decay)
        evaluations = jnp.array([0, self.num_rows], jnp.int32)
        return updated, TrainingInfo(loss, ~finite, evaluations)

    def batch(
        self, rng_key: PRNGKeyArray, target: Any, sd: Float[Array, ""]
    ) -> tuple[Array, Array, Array, Any]:
        """Rows as points relative to the path's center, times, noises, and labels or None."""
        key_rows, key_times, key_noise, key_labels = random.split(rng_key, 4)
        rows = random.randint(key_rows, (self.num_rows,), 0, target.num_data)
        x = jax.vmap(self._blank.flat)(target.at(rows)) - self._blank.center
        t = self.times.draw(key_times, self.num_rows, self.path, sd)
        labels = None
        if self.labels is not None:
            shown = random.bernoulli(key_labels, 1 - self.unlabeled, (self.num_rows,))
            labels = jnp.where(shown, self.labels[rows], -1)
        noise = self._blank.noise(key_noise, 2 * self.num_rows)
        if self.noise is not None:
            paired = jax.vmap(self._blank.flat)(jax.tree.map(lambda z: z[rows], self.noise))
            noise = jnp.concatenate([paired, noise[self.num_rows :]])
        return x, t, noise, labels

    def loss(
        self, denoiser: Any, x0: Array, t: Array, noise: Array, labels: Any, sd: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The weighed loss of a batch, a mean over rows and coordinates.

        ``noise`` has two rows for each point: the noise, and what perturbs the input.
        """
        prior = eqx.tree_at(lambda prior: prior.denoiser, self._blank, denoiser)
        weight = self._weight(sd)
        noise, hidden = jnp.split(noise, 2)

        def one(x0: Array, t: Array, noise: Array, hidden: Array, label: Any) -> Array:
            level = self.path.level(t)
            hidden = self.perturbation.astype(x0.dtype) * hidden
            law = prior if label is None else prior.given(label)
            denoised = law.denoised(level.alpha * x0 + level.sigma * (noise + hidden), level)
            # The network should say which noise it was told of, in terms of D.
            return weight(level) * jnp.mean((denoised - x0 - level.kappa * hidden) ** 2)

        return jnp.mean(jax.vmap(one)(x0, t, noise, hidden, labels))

    def _weight(self, sd: Float[Array, ""]) -> Weight:
        if self.weight is not None:
            return self.weight
        if self.predicts is Preconditioned:
            return EDMWeight(sd)
        output = self.predicts(_untrained).output  # linear in D; its slope squared
        return lambda level: output(1.0, 0.0, level) ** 2

    @property
    def _optimizer(self) -> Any:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_updates))

    # Draws ----------------------------------------------------------------------------------

    def prior(self, state: TrainingState) -> DiffusionPrior:
        """The learned law."""
        return eqx.tree_at(lambda prior: prior.denoiser, self._blank, state.average)

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: TrainingState, n: int
    ) -> tuple[Position, None]:
        return self.prior(state).sample(rng_key, n), None

    def evaluations(self, n: int) -> tuple[int, int]:
        return self._blank.sampler.evaluations(n)


def _untrained(position: Position, sigma: Any, *condition: Any) -> Position:
    """The denoiser of a point mass at zero, in place of one that is yet to come."""
    return jax.tree.map(jnp.zeros_like, position)


class Raveled(eqx.Module):
    """A function of vectors, on positions that are no array."""

    of_vectors: Any

    def __call__(self, position: Position, t: Any, *condition: Any) -> Position:
        vector, position_of = ravel_pytree(position)
        return position_of(self.of_vectors(vector, t, *condition))
