"""Generative flow networks (GFlowNets): policies that build objects with probability R(x) / Z.

    s_0 -> s_1 -> .. -> s_n = x, stop,      P_F(s_t+1 | s_t; theta),   P_B(s_t | s_t+1)
    F(s) P_F(s' | s) = F(s') P_B(s | s'),   F(x) P_F(stop | x) = R(x)      for all s -> s' and x

A policy that satisfies these draws x with probability R(x) / Z, each draw independent of the last,
and Z is the flow F(s_0). ``step`` draws paths through an environment and takes one Adam step on how
far they are from balance: the objectives are those of `samplers.trajectory`, functions of log P_F,
log P_B and log F along paths of any law. So paths may explore (by chance, at a higher temperature),
be cut short, or come back from a buffer of objects. Exploration changes what is drawn; what is
scored is the policy.

Draws are built by the policy alone and carry log-weights

    log w = log R(x) + sum_t log P_B(s_t | s_t+1) - sum_t log P_F(s_t+1 | s_t) - log P_F(stop | x)

Weighted, they are asymptotically exact where the policy can build every object, and their mean
weight is an unbiased estimate of Z, trained or not. What a policy has never found its weights know
nothing of.

References
----------
.. [1] Bengio et al., "Flow network based generative models for non-iterative diverse candidate
   generation", NeurIPS 2021, arXiv:2106.04399.
.. [2] Bengio et al., "GFlowNet foundations", JMLR 24, 2023, arXiv:2111.09266. Detailed balance.
.. [3] Malkin et al., "Trajectory balance: improved credit assignment in GFlowNets", NeurIPS 2022,
   arXiv:2201.13259.
.. [4] Pan et al., "Better training of GFlowNets with local credit and incomplete trajectories",
   ICML 2023, arXiv:2302.01687. The forward-looking flow, equation 7.
.. [5] Deleu et al., "Bayesian structure learning with generative flow networks", UAI 2022,
   arXiv:2202.13903. Detailed balance where every state is an object, without a network of flows.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ppl import weights
from ppl.environment import Environment, State
from ppl.sampler import Exactness, LearnedSampler, positive, share, size
from ppl.template import TargetError
from samplers.descent import adam, begin, descend, is_finite
from samplers.gflownet.paths import (
    Exploration,
    Paths,
    Told,
    check_ways,
    cut,
    forward_and_told,
)
from samplers.gflownet.policies import BackwardPolicy, MLPPolicy, Policy, UniformBackward
from samplers.gflownet.revisit import Revisit, remember
from samplers.gflownet.scores import Ahead, ask, look_forward, rewards_on_the_way, score
from samplers.trajectory.objectives import Objective, TrajectoryBalance, log_weights
from samplers.trajectory.replay import Buffer


class Learned(NamedTuple):
    """What is learned: the policy, and log Z less a first estimate of it."""

    policy: Any
    log_z: Float[Array, ""]


class GFlowNetState(NamedTuple):
    """What is learned, the first estimate of log Z, Adam's moments, updates, objects built."""

    learned: Learned
    log_z: Float[Array, ""]
    optimizer: Any
    updates: Int[Array, ""]
    buffer: Buffer | None


class GFlowNetInfo(NamedTuple):
    """Loss of an update, mean log-weight and ESS of its complete paths, log of their mean reward.

    They judge the policy once its paths no longer explore. ``diverging``: the loss or its gradient
    was not finite, and there was no update. ``num_illegal``: objects whose log-reward is NaN or
    +inf, which count as without one. ``num_endless``: paths that did not end in an object.
    """

    loss: Float[Array, ""]
    elbo: Float[Array, ""]
    ess: Float[Array, ""]
    log_reward: Float[Array, ""]
    diverging: Bool[Array, ""]
    num_illegal: Int[Array, ""]
    num_endless: Int[Array, ""]
    num_evaluations: Int[Array, "2"]


class GFlowNet(LearnedSampler):
    """Generative flow network: asymptotically exact through its weights.

    The target is a `ppl.environment.Environment`. An update costs ``num_paths`` rewards; one that
    goes back to objects of a buffer, as many for each round of local search, or what the steps of a
    kernel cost.

    Parameters
    ----------
    objective
        `TrajectoryBalance`, `VarGrad`, `DetailedBalance` or `SubTrajectoryBalance`.
    policy
        `MLPPolicy`, `TransformerPolicy`, `DeepSetsPolicy`, `TabularPolicy` where the states can be
        numbered, or `MixturePolicy` for sequences of some kinds.
    backward
        `UniformBackward`, `LearnedBackward` or `MaxEntBackward`.
    forward_looking
        Whether flows look forward: log F(s) is log R(s) - log P_F(stop | s) where building may stop
        [5], and elsewhere learned up to the ``partial_energy`` of the environment [4] and what its
        ``progress`` leaves of log Z. Costs a reward at each state where building might have
        stopped, and went on.
    num_updates
        Adam steps; the learning rates fall to zero along a half cosine over them.
    num_paths
        Paths of an update.
    learning_rate, log_z_learning_rate
        Of the first update, for the policy and for log Z.
    exploration
        Share of moves that are drawn uniformly; falls to zero over the first half of the updates.
    temperature
        Of the moves while exploration lasts: 1 draws from the policy, more is flatter.
    incomplete
        Share of the paths that are cut short, at a transition drawn uniformly.
    revisit
        A `Revisit`: some updates go backward from objects of a buffer.

    Raises
    ------
    TargetError
        Before training is compiled: for a target that is no environment or lacks what the policy,
        the backward policy or ``forward_looking`` ask for; an objective that takes whole paths with
        ``incomplete`` ones; ways that do not end, of 64 drawn by chance. After training, if no
        object with a positive reward was met, or paths did not end.

    Differences from the papers
    ---------------------------
    Learned flows are relative to an estimate of log Z from a first batch, and log Z starts there,
    so that rewards of any scale can be learned. Forward-looking flows get what ``progress`` leaves
    of it, which those of [4] have to learn. Objects with a reward of zero count as if it were e^-20
    of the smallest positive one in the batch.

    Notes
    -----
    Forward-looking flows learn faster, from half of the paths cut short as from whole ones. On sets
    of 5 of 10 elements, whose partial energy is a share of the final one, the total variation after
    250 updates is 0.008 (mean of three keys), that of detailed balance after 500 is 0.025. On the
    20 by 20 grid, where every cell may stop, that of `SubTrajectoryBalance` after 500 is 0.045
    (0.019 with whole paths), that of detailed balance after 1,000 is 0.073; there 440,000 rewards
    are asked for in place of 64,000. `DetailedBalance` that looks forward has 0.110 there (0.081):
    it passes on what comes later a move at a time, as any does.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"environment"})
    exactness: ClassVar[Exactness] = "asymptotically exact"

    objective: Objective = eqx.field(default_factory=TrajectoryBalance)
    policy: Policy = eqx.field(default_factory=MLPPolicy)
    backward: BackwardPolicy = eqx.field(default_factory=UniformBackward)
    forward_looking: bool = eqx.field(static=True, default=False)
    num_updates: int = size("num_updates", default=1000)
    num_paths: int = size("num_paths", minimum=2, default=64)
    learning_rate: Float[Array, ""] = positive("learning_rate", default=3e-3)
    log_z_learning_rate: Float[Array, ""] = positive("log_z_learning_rate", default=0.1)
    exploration: Float[Array, ""] = share("exploration", default=0.1)
    temperature: Float[Array, ""] = positive("temperature", default=1.0)
    incomplete: Float[Array, ""] = share("incomplete", default=0.0)
    revisit: Revisit | None = None

    # Before compilation ---------------------------------------------------------------------

    def check(self, target: Any) -> None:
        self.policy.check(target)
        self.backward.check(target)
        name = type(self.objective).__name__
        if self.objective.law != "any":
            raise TargetError(
                f"a GFlowNet explores, and {name} asks for {self.objective.law} paths alone: write "
                "objective=samplers.TrajectoryBalance(), or another that takes any path"
            )
        if float(self.incomplete) > 0 and not self.objective.takes_windows:
            raise TargetError(
                f"{name} needs complete paths, and incomplete={float(self.incomplete):g} cuts some "
                "short: write incomplete=0, or objective=samplers.DetailedBalance()"
            )
        if self.forward_looking and self.objective.flow != "states":
            raise TargetError(
                f"forward_looking shifts the flows of states, and {name} has none: write "
                "objective=samplers.DetailedBalance() or samplers.SubTrajectoryBalance()"
            )
        if self.revisit is not None and self.revisit.capacity < self.num_paths:
            raise TargetError(
                f"the buffer must hold the {self.num_paths} objects of an update at least; got "
                f"capacity={self.revisit.capacity}"
            )
        if self.revisit is not None:
            self.revisit.check(target)
        if self.forward_looking and "partial_energy" not in target.offers:
            raise TargetError(
                f"forward_looking asks for partial_energy(state), and {type(target).__name__} has "
                "none"
            )
        check_ways(target)

    # Training -------------------------------------------------------------------------------

    def init(self, rng_key: PRNGKeyArray, target: Any) -> GFlowNetState:
        learned = Learned(self.policy.start(rng_key, target), jnp.zeros(()))
        parts = zip(self._optimizers, learned, strict=True)
        optimizer = tuple(begin(*part) for part in parts)
        buffer = None if self.revisit is None else self.revisit.empty(target)
        zero = jnp.zeros((), jnp.int32)
        return GFlowNetState(learned, jnp.zeros(()), optimizer, zero, buffer)

    def step(
        self, rng_key: PRNGKeyArray, target: Any, state: GFlowNetState
    ) -> tuple[GFlowNetState, GFlowNetInfo]:
        key_paths, key_cut = random.split(rng_key)
        paths, tells, raw, buffer, num_rewards = self._paths(key_paths, target, state)
        num_endless = jnp.sum(~paths.complete)
        if self.objective.takes_windows:
            paths = cut(key_cut, paths, self.incomplete)
        raw, asked = raw[None], jnp.ones((1, raw.size), bool)
        if self.forward_looking:
            raw, asked = rewards_on_the_way(target, paths, raw[0])
            num_rewards += jnp.sum(asked[1:])
        log_reward = weights.clean(raw)
        finite = _floored(log_reward)

        def loss_of(learned: Learned) -> tuple[Array, tuple[Array, Array]]:
            policy = self._asked(learned.policy)
            scores = score(target, policy, self.backward, paths, finite[0], tells)
            w = lax.stop_gradient(log_weights(scores))
            w = jnp.where(paths.complete, w, -jnp.inf)
            # The first batch gives a first estimate, for rewards of any scale.
            log_z = jnp.where(state.updates == 0, _finite(weights.log_mean_exp(w)), state.log_z)
            if self.forward_looking:
                scores = look_forward(target, scores, paths, log_z + learned.log_z, finite[1:])
            else:
                log_flow = scores.log_flow if self.objective.flow == "states" else 0.0
                log_flow = log_flow + (log_z + learned.log_z) * jnp.ones_like(scores.log_flow)
                scores = scores._replace(log_flow=log_flow)
            return self.objective(scores), (w, log_z)

        (loss, aux), gradient = eqx.filter_value_and_grad(loss_of, has_aux=True)(state.learned)
        w, log_z = aux
        fine = is_finite(loss, gradient)
        moved = [
            descend(*of_part, fine)
            for of_part in zip(
                self._optimizers, gradient, state.optimizer, state.learned, strict=True
            )
        ]
        learned, optimizer = zip(*moved, strict=True)
        done = state.updates + fine
        log_z = jnp.where(fine, log_z, state.log_z)
        info = GFlowNetInfo(
            loss,
            jnp.sum(jnp.where(paths.complete, w, 0.0)) / jnp.maximum(jnp.sum(paths.complete), 1),
            weights.ess(w),
            weights.log_mean_exp(log_reward[0]),
            ~fine,
            jnp.sum(asked & weights.is_illegal(raw)),
            num_endless,
            jnp.stack([num_rewards, jnp.int32(0)]),
        )
        return GFlowNetState(Learned(*learned), log_z, optimizer, done, buffer), info

    def _paths(
        self, rng_key: PRNGKeyArray, target: Any, state: GFlowNetState
    ) -> tuple[Paths, Told, Float[Array, " B"], Buffer | None, Int[Array, ""]]:
        """Paths of an update, what is said of them, their log-rewards, the buffer, and the cost."""
        policy, revisit, num = state.learned.policy, self.revisit, self.num_paths
        both = self._asked(policy), self.backward

        def built(buffer: Any) -> Any:
            explore = self._exploration(state.updates)
            paths, tells = forward_and_told(rng_key, target, *both, num, explore)
            log_reward = _rewards(target, paths)
            if buffer is not None:
                buffer = remember(buffer, paths, log_reward)
            return paths, tells, log_reward, buffer, jnp.int32(num)

        if revisit is None:
            return built(None)

        def found(buffer: Any) -> Any:
            paths, *rest = revisit.paths(rng_key, target, *both, buffer, num)
            return paths, ask(target, *both, paths), *rest

        # The step index alone decides, so that one of the two is run and not both.
        goes_back = state.updates % revisit.every == revisit.every - 1
        return lax.cond(goes_back, found, built, state.buffer)

    def _asked(self, policy: Any) -> Any:
        """The policy as training asks it: for flows that look forward, if wanted."""
        return Ahead(policy) if self.forward_looking else policy

    @property
    def _optimizers(self) -> tuple[Any, Any]:
        """The policy and log Z have their own rates."""
        rates = self.learning_rate, self.log_z_learning_rate
        return adam(rates[0], self.num_updates, None), adam(rates[1], self.num_updates, None)

    def _exploration(self, updates: Int[Array, ""]) -> Exploration:
        left = jnp.maximum(1 - 2 * updates / self.num_updates, 0.0)
        return Exploration(left * self.exploration, self.temperature**left)

    # Drawing --------------------------------------------------------------------------------

    def draw(
        self, rng_key: PRNGKeyArray, target: Any, state: GFlowNetState, n: int
    ) -> tuple[State, Float[Array, " n"]]:
        both = state.learned.policy, self.backward
        paths, tells = forward_and_told(rng_key, target, *both, n)
        scores = score(target, *both, paths, _rewards(target, paths), tells)
        return paths.objects, log_weights(scores)

    def evaluations(self, n: int) -> tuple[int, int]:
        return (n, 0)

    def notes(self, history: dict[str, np.ndarray]) -> list[str]:
        endless, illegal = (int(np.sum(history[f"num_{x}"])) for x in ("endless", "illegal"))
        if endless:
            raise TargetError(
                f"{endless} paths of the training did not end in an object: at some state "
                "forward_mask leaves no move, nor the stop, or ways are longer than max_length, as "
                "in a loop. ppl.environment.check(environment) names the state"
            )
        if np.all(history["log_reward"] == -np.inf):
            raise TargetError(
                "every object that was built had a reward of zero: nothing could be learned. Give "
                "the environment a mask that keeps off such objects, or a positive reward"
            )
        if illegal:
            return [
                f"The log-density of {illegal} objects that were built while training is NaN or "
                "+inf; they counted as without a reward. ppl.environment.check(environment) looks "
                "for one."
            ]
        return []


def _rewards(target: Environment, paths: Paths) -> Float[Array, " B"]:
    return jax.vmap(target.log_density)(paths.objects)


def _floored(log_reward: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Log-rewards, finite: where it is -inf, 20 nats below the smallest in the batch."""
    is_positive = jnp.isfinite(log_reward)
    lowest = jnp.min(jnp.where(is_positive, log_reward, jnp.inf))
    return jnp.where(is_positive, log_reward, _finite(lowest) - 20)


def _finite(x: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(jnp.isfinite(x), x, 0.0)
