"""Metropolis-Hastings over objects built move by move: taken apart for some and built anew.

    x -> .. -> s_j by P_B,   s_j -> .. -> x' by P_F,   j ~ U{0, .., n},   n moves lead to x
    log alpha = log R(x') - log R(x) + log(n + 1) - log(n' + 1)
                + sum log P_B(x' -> s_j) - sum log P_F(s_j -> x')
                + sum log P_F(s_j -> x)  - sum log P_B(x -> s_j)

The local search of generative flow networks [1] with the acceptance rule of Hastings is a Markov
chain that leaves R / Z invariant, whatever P_F and P_B are (`samplers.gflownet.local_search`). By
default all legal moves are alike: on sequences that are written from the left it keeps a prefix and
writes the rest at random, which is what flow networks are compared with. With the policies of a
trained `samplers.GFlowNet` its proposals are as good as these. As a move of `samplers.TemperedSMC`
it is told of the environment, ``BackAndForth(environment)``: the rungs of a path are targets of
their own.

References
----------
.. [1] Kim et al., "Local search GFlowNets", ICLR 2024, arXiv:2310.02710.
.. [2] Hastings, "Monte Carlo sampling methods using Markov chains and their applications",
   Biometrika 57, 1970, doi:10.1093/biomet/57.1.97.
"""

from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from ppl.energy import Energy, TargetError
from ppl.environment import Environment, State, shown
from ppl.sampler import Exactness, MarkovKernel, Trained
from ppl.template import describe
from samplers.gflownet.gflownet import GFlowNet
from samplers.gflownet.local_search import back_and_forth
from samplers.gflownet.policies import Even, UniformBackward
from samplers.mcmc.metropolis import MetropolisInfo, MetropolisState


class BackAndForth(MarkovKernel):
    """Metropolis-Hastings over objects of an environment: exact.

    A chain starts from objects: ``init=samplers.built`` builds them by moves drawn uniformly.

    Parameters
    ----------
    environment
        How objects are built. None: the target says it.
    proposal
        ``draws.sampler`` of a trained `GFlowNet`, whose policies take objects apart and build them.
        None: each legal move is as likely as another.

    Raises
    ------
    TargetError
        Before compilation: for a target that is no environment where none is given, or whose
        objects look different; for a start that is no object.
    TypeError
        If ``proposal`` is no trained `GFlowNet`.

    Differences from the paper
    --------------------------
    The number of moves that are kept is drawn, where [1] takes a fixed share apart, and proposals
    are accepted by the rule of [2]; the paper's rules are those of a search.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_density"})
    exactness: ClassVar[Exactness] = "exact"

    environment: Any = None
    proposal: Any = None

    def __check_init__(self) -> None:
        trained = isinstance(self.proposal, Trained) and isinstance(self.proposal.sampler, GFlowNet)
        if not (self.proposal is None or trained or type(self.proposal) is object):
            raise TypeError(
                "proposal must be draws.sampler of draws = ppl.sample(samplers.GFlowNet(), "
                f"environment), or None; got {type(self.proposal).__name__}"
            )

    def check(self, target: Energy) -> None:
        environment = _environment_of(self, target)
        if environment is None:
            raise TargetError(
                "BackAndForth takes objects apart and builds them, so it needs to know how: a "
                "target that is a ppl.environment.Environment, or BackAndForth(environment); got a "
                f"{type(target).__name__} on {describe(target.template)}"
            )
        if describe(environment.template) != describe(target.template):
            raise TargetError(
                f"BackAndForth builds objects {describe(environment.template)}; positions of this "
                f"target are {describe(target.template)}"
            )

    def check_start(self, target: Energy, positions: State | None) -> None:
        environment = _environment_of(self, target)
        if environment is None or positions is None:
            return
        may_stop = jax.vmap(lambda x: environment.forward_mask(x)[-1])(positions)
        if not bool(jnp.all(may_stop)):
            first = jax.tree.map(lambda x: x[jnp.argmin(may_stop)], positions)
            raise TargetError(
                "BackAndForth starts from objects, states at which building may stop; "
                f"{shown(first)} is none. Write init=samplers.built"
            )

    def resolve(self, target: Energy) -> "BackAndForth":
        return replace(self, environment=_environment_of(self, target))

    def init(self, rng_key: PRNGKeyArray, target: Energy, position: State) -> MetropolisState:
        return MetropolisState(position, target.log_density(position))

    def step(
        self, rng_key: PRNGKeyArray, target: Energy, state: MetropolisState
    ) -> tuple[MetropolisState, MetropolisInfo]:
        assert self.environment is not None, "resolve(target) first, as ppl.sample does"
        policy, backward = Even(), UniformBackward()
        if self.proposal is not None:
            policy, backward = self.proposal.state.learned.policy, self.proposal.sampler.backward
        one = jax.tree.map(lambda x: x[None], tuple(state))
        batch = back_and_forth(rng_key, self.environment, policy, backward, *one, target=target)
        found = jax.tree.map(lambda x: x[0], batch)
        rate = jnp.exp(jnp.minimum(found.log_alpha, 0.0))
        info = MetropolisInfo(
            jnp.where(jnp.isnan(rate), 0.0, rate), found.is_accepted, found.is_illegal,
            jnp.array([1, 0], jnp.int32),
        )  # fmt: skip
        return MetropolisState(found.objects, found.log_reward), info


def _environment_of(kernel: BackAndForth, target: Any) -> Environment | None:
    for environment in (kernel.environment, target):
        if isinstance(environment, Environment):
            return environment
    return None
