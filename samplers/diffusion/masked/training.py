"""Masked diffusion training: a law of sequences learned by guessing masked tokens.

    minimize  E_l (L / l) sum_(i masked) -log p(x_i | the tokens that are not masked),
    l uniform on 1 .. L, masked: any l of the L places

which is the bound of masked diffusion on ``-log p(x)``, in nats a sequence, with the time
integrated out: masks that are drawn one by one with a probability t, and a weight 1 / t, have the
same mean and more variance [1]. The network has no time. ``step`` is one Adam update; what draws is
a running average of the weights (EMA), as in `samplers.diffusion.training`.

Draws are those of `FirstHitting`, and the trained sampler has the prior, ``draws.sampler.prior``, a
`MaskedPrior` for `ppl.tilt`. Biased: by what the network has not learned, and because the minimum
for a finite data set is that set itself, which a network comes near if it is large and trained for
long. What sequences held out are worth, `MaskedPrior.log_density_bound`, tells.

References
----------
.. [1] Ou et al., "Your absorbing discrete diffusion secretly models the conditional distributions
   of clean data", ICLR 2025, arXiv:2406.03736. Theorem 2: the any-order form.
.. [2] Sahoo et al., "Simple and effective masked diffusion language models", NeurIPS 2024,
   arXiv:2406.07524.
"""

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.sampler import Exactness, LearnedSampler, fraction, positive, size, where
from ppl.template import describe
from samplers.diffusion.masked.first_hitting import FirstHitting
from samplers.diffusion.masked.network import MaskedTransformer
from samplers.diffusion.masked.prior import MaskedPrior
from samplers.mcmc.metropolis import all_finite


class MaskedState(NamedTuple):
    """The network, its running average, Adam's moments, how many updates."""

    network: Any
    average: Any
    optimizer: Any
    updates: Int[Array, ""]


class MaskedInfo(NamedTuple):
    """The bound on -log p of an update's rows, in nats a sequence.

    ``diverging`` where it was not finite, and nothing was updated.
    """

    loss: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_evaluations: Int[Array, "2"]


class MaskedDiffusion(LearnedSampler):
    """Masked diffusion training: biased, independent draws of the law of a set of sequences.

    The target is `ppl.from_samples` of tokens, integers 0, 1, .. of shape (row, length). An update
    costs ``num_rows`` evaluations of the network, a draw ``length`` of them.

    Parameters
    ----------
    network
        ``network(rng_key, length, num_tokens)`` makes a network ``tokens -> logits``, see
        `MaskedPrior`: `MaskedTransformer`, ``functools.partial(samplers.MaskedTransformer,
        width=32)``.
    num_tokens
        Number of tokens; None: one more than the largest in the data.
    num_updates
        Adam updates; the learning rate falls to zero along a half cosine over them.
    num_rows
        Rows of the data in an update.
    learning_rate
        Of the first update.
    ema_decay
        The largest share of the running average that an update keeps.
    solver
        How it draws: `FirstHitting` or `MaskedAncestral`.

    Raises
    ------
    TargetError
        Before compilation: for rows that are no sequences of tokens, tokens beyond ``num_tokens``,
        or a network that does not return logits for each place.

    Differences from the paper
    --------------------------
    The numbers of masked tokens of an update are spread evenly over 1 .. L.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    exactness: ClassVar[Exactness] = "biased"
    batch_size: ClassVar[int] = 256

    network: Any = eqx.field(static=True, default=MaskedTransformer)
    num_tokens: int | None = eqx.field(static=True, default=None)
    num_updates: int = size("num_updates", default=2000)
    num_rows: int = size("num_rows", default=128)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=3e-3)
    ema_decay: Float[Array, ""] = fraction("ema_decay", default=0.995)
    solver: Any = eqx.field(default_factory=FirstHitting)
    length: int | None = eqx.field(static=True, default=None)  # `resolve` knows

    # Before compilation ---------------------------------------------------------------------

    def check(self, target: Any) -> None:
        template = target.template
        fits = isinstance(template, jax.ShapeDtypeStruct) and len(template.shape) == 1
        if not fits or not jnp.issubdtype(template.dtype, jnp.integer):
            one_hot = isinstance(template, jax.ShapeDtypeStruct) and len(template.shape) == 2
            raise TargetError(
                "MaskedDiffusion learns from sequences of tokens, integers of shape (row, length); "
                f"a row of these data is {describe(template)}"
                + (". From one-hot rows: rows.argmax(-1)" if one_hot else "")
            )
        rows = np.asarray(target.rows)
        known = np.inf if self.num_tokens is None else self.num_tokens
        if rows.min() < 0 or rows.max() >= known:
            upper = "" if self.num_tokens is None else f" to {self.num_tokens - 1} (num_tokens)"
            raise TargetError(
                f"tokens are the integers from 0 on{upper}; the data hold {rows.min()} to "
                f"{rows.max()}"
            )

    def resolve(self, target: Any) -> "MaskedDiffusion":
        largest = self.num_tokens
        if largest is None:
            largest = int(np.asarray(target.rows).max()) + 1
        length = target.template.shape[0]

        def checked(rng_key: PRNGKeyArray) -> Array:
            prior = MaskedPrior(self.network(rng_key, length, largest), length, largest)
            self.solver.check(prior)
            return prior.unmask(jnp.zeros(length, jnp.int32))

        eqx.filter_eval_shape(checked, random.key(0))
        solver = self.solver.resolve(target)
        return replace(self, num_tokens=largest, length=length, solver=solver)

    # Training -------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Any) -> MaskedState:
        network = self.network(rng_key, self.length, self.num_tokens)
        optimizer = self._optimizer.init(eqx.filter(network, eqx.is_inexact_array))
        return MaskedState(network, network, optimizer, jnp.zeros((), jnp.int32))

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: MaskedState
    ) -> tuple[MaskedState, MaskedInfo]:
        key_rows, key_masks = random.split(rng_key)
        rows = target.at(random.randint(key_rows, (self.num_rows,), 0, target.num_data))
        loss, gradient = eqx.filter_value_and_grad(self._loss)(state.network, key_masks, rows)
        learned = eqx.filter(state.network, eqx.is_inexact_array)
        updates, optimizer = self._optimizer.update(gradient, state.optimizer, learned)
        network = eqx.apply_updates(state.network, updates)
        k = state.updates.astype(loss.dtype)
        b = jnp.minimum(self.ema_decay.astype(k.dtype), (1 + k) / (10 + k))
        average = jax.tree.map(
            lambda a, w: a + (1 - b) * (w - a) if eqx.is_inexact_array(a) else a,
            state.average,
            network,
        )
        updated = MaskedState(network, average, optimizer, state.updates + 1)
        finite = all_finite((loss, eqx.filter(gradient, eqx.is_inexact_array)))
        kept = where(finite, *(eqx.filter(s, eqx.is_array) for s in (updated, state)))
        evaluations = jnp.array([0, self.num_rows], jnp.int32)
        return eqx.combine(kept, state), MaskedInfo(loss, ~finite, evaluations)

    def _loss(
        self, network: Any, rng_key: PRNGKeyArray, rows: Int[Array, "row length"]
    ) -> Float[Array, ""]:
        n, prior = len(rows), self._law(network)
        key_number, key_places = random.split(rng_key)
        number = spread(key_number, n, prior.length)
        losses = jax.vmap(masked_loss, (0, None, 0, 0))
        return jnp.mean(losses(random.split(key_places, n), prior, rows, number))

    def _law(self, network: Any) -> MaskedPrior:
        assert self.length is not None, "resolve(target) first, as ppl.sample does"
        assert self.num_tokens is not None
        return MaskedPrior(network, self.length, self.num_tokens)

    @property
    def _optimizer(self) -> Any:
        return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.num_updates))

    # Draws ----------------------------------------------------------------------------------

    def prior(self, state: MaskedState) -> MaskedPrior:
        """The learned law."""
        return self._law(state.average)

    def draw(
        self, rng_key: PRNGKeyArray, target: Energy, state: MaskedState, n: int
    ) -> tuple[Int[Array, "n length"], None]:
        return self.solver.draw(rng_key, self.prior(state), n)

    def evaluations(self, n: int) -> tuple[int, int]:
        return self.solver.evaluations(n)


def spread(rng_key: PRNGKeyArray, n: int, length: int) -> Int[Array, " n"]:
    """Numbers of masked tokens, each uniform on 1 .. length, and spread evenly together."""
    u = (jnp.arange(n) + random.uniform(rng_key, (n,))) / n
    return jnp.clip(jnp.floor(u * length).astype(jnp.int32) + 1, 1, length)


def masked_loss(
    rng_key: PRNGKeyArray, target: Any, tokens: Int[Array, " length"], number: Int[Array, ""]
) -> Float[Array, ""]:
    """Bound on -log p of a sequence, from ``number`` masked places: right in the mean over both."""
    length = len(tokens)
    masked = random.permutation(rng_key, length) < number
    mask = jax.eval_shape(target.unmask, target.template).shape[1]
    log_probs = target.unmask(jnp.where(masked, mask, tokens).astype(tokens.dtype))
    log_p = jnp.take_along_axis(log_probs, tokens[:, None], axis=1)[:, 0]
    return -length / number * jnp.sum(jnp.where(masked, log_p, 0))
