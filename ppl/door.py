"""What `ppl.sample` refuses before anything is compiled: what was given, what to write instead."""

from typing import Any

import numpy as np

from ppl.algebra import Stack
from ppl.energy import Energy, TargetError
from ppl.markov import Plan
from ppl.sampler import (
    DirectSampler,
    LearnedSampler,
    MarkovKernel,
    ParticleSampler,
    Sampler,
)


def fit(sampler: Any, target: Any) -> Any:
    """Refuse what cannot work, before anything is compiled; resolve what is left open."""
    if isinstance(sampler, type) and issubclass(sampler, Sampler):
        raise TypeError(f"pass an instance: {sampler.__name__}() instead of {sampler.__name__}")
    if isinstance(sampler, Energy) and isinstance(target, Sampler):
        raise TypeError("the sampler comes first: ppl.sample(sampler, target)")
    if not isinstance(sampler, Sampler):
        raise TypeError(f"{type(sampler).__name__} is no sampler; pass one such as samplers.NUTS()")
    if isinstance(target, Stack):
        raise TargetError("this is a stack of targets; call ppl.sample_batch")
    offers = getattr(target, "offers", None)
    if offers is None:
        raise TargetError(
            f"{type(target).__name__} is no target; make one with ppl.from_numpyro(model, ...), "
            "ppl.from_log_density(fn, template) or ppl.from_distribution(distribution)"
        )
    for capability in sorted(sampler.needs - offers):
        raise TargetError(
            f"{type(sampler).__name__} needs {capability!r}: {target.refuse(capability)}"
        )
    sampler.check(target)
    return sampler.resolve(target)


KINDS = {
    MarkovKernel: "markov",
    ParticleSampler: "particle",
    LearnedSampler: "learned",
    DirectSampler: "direct",
}


def kind(sampler: Sampler) -> str:
    """Which of the four contracts the sampler fulfils, in a word."""
    for contract, kind in KINDS.items():
        if isinstance(sampler, contract):
            return kind
    raise TypeError(f"{type(sampler).__name__} fulfils none of the four contracts of ppl.sampler")


def check_chains(kernel: MarkovKernel, plan: Plan) -> None:
    """Refuse fewer chains than a kernel that tunes itself on many needs."""
    if plan.num_warmup and plan.num_chains < kernel.fewest_chains:
        name = type(kernel).__name__
        raise ValueError(
            f"{name} tunes itself on many chains side by side and needs {kernel.fewest_chains} of "
            f"them at least; got num_chains={plan.num_chains}. Write num_chains="
            f"{kernel.usual_chains}, or use samplers.NUTS() for a few chains. (A {name} that is "
            "tuned already runs on any number with num_warmup=0.)"
        )


def at_least(minimum: int, name: str, value: Any, default: int) -> int:
    """Give the size, or its default; refuse what is no integer of at least ``minimum``."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer, at least {minimum}; got {value!r}")
    return int(value)


def check_thin(sampler: Sampler, thin: Any) -> None:
    """Refuse thinning of independent draws."""
    if at_least(1, "thin", thin, 1) > 1 and not isinstance(sampler, MarkovKernel):
        raise ValueError(f"{type(sampler).__name__} draws independently: thin={thin} has no use")
