"""`sample`: one driver for Markov, particle, direct and learned samplers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import PRNGKeyArray

from ppl import about, door, keys, population, sharding, start
from ppl.algebra import Stack, entry
from ppl.checkpoint import Checkpoint, fingerprint
from ppl.draws import Draws, Run
from ppl.energy import Energy, Position, Prior, TargetError
from ppl.markov import Chains, Outcome, Plan, Tallies
from ppl.precision import full_precision
from ppl.progress import Bar
from ppl.sampler import (
    DirectSampler,
    LearnedSampler,
    MarkovKernel,
    ParticleSampler,
    Sampler,
)

CHAINS, SAMPLES, WARMUP = MarkovKernel.usual_chains, 1000, 1000


@full_precision
def sample(
    sampler: Sampler,
    target: Any,
    rng_key: Any = 0,
    num_samples: int | None = None,
    num_chains: int | None = None,
    num_warmup: int | None = None,
    init: Any = None,
    progress: bool = True,  # noqa: FBT001, FBT002
    checkpoint: str | Path | None = None,
    mesh: Any = None,
    until: Callable[[Draws], bool] | None = None,
    *,
    thin: int = 1,
) -> Draws:
    """Run any sampler on any target it fits.

    Parameters
    ----------
    sampler
        A `MarkovKernel`, `ParticleSampler`, `DirectSampler` or `LearnedSampler`.
    target
        What to sample; see `from_log_density`, `from_numpyro` and the others.
    rng_key
        An int, a typed key or one raw uint32 key. Same key, same version, same number of
        devices: same draws, whatever the chunks, the checkpoints and the number of samples.
    num_samples
        Draws a chain (1000). Refused for particle samplers, whose draws are their particles.
    num_chains
        Chains of a Markov kernel (4; more for those that learn from many chains); independent runs
        of any other sampler (1).
    num_warmup
        Adaptation (or burn-in) steps of a Markov kernel (1000); refused for all others.
    init
        For Markov kernels: one unconstrained position for all chains, one a chain (leading
        axis), earlier draws to go on from, or a function ``(rng_key, target, num_chains) ->
        positions``. By default starts are jittered, uniform on (-2, 2). A run goes on as it was
        with ``ppl.sample(draws.sampler, target, init=draws, num_warmup=0)``: the same program,
        and new random numbers, also with the same ``rng_key``.
    progress
        Show a progress bar on standard error.
    checkpoint
        Directory. A killed run that is called again goes on where it was and gives the draws of
        the uninterrupted run; a larger ``num_samples`` extends it.
    mesh
        `jax.sharding.Mesh` whose first axis shards the chains; see `ppl.sharding.chains_mesh`.
    until
        ``Callable[[Draws], bool]``, asked after 100, 150, 225, ... draws; true ends the run. See
        `converged`, `elapsed` and `evaluations`. A learned sampler is asked after as many updates,
        each run by itself: it is shown a batch of draws from what has been learned by then, whose
        cost counts as training, and true ends training.
    thin
        Keep every ``thin``-th draw of a Markov chain.

    Returns
    -------
    Draws
        Ctrl-C returns the draws so far.

    Raises
    ------
    ValueError
        For a target the sampler cannot use, sizes that make no sense, a start where the density
        or its gradient is not finite, a checkpoint of another run; before compilation where
        that is possible.

    Examples
    --------
    >>> import jax.numpy as jnp, ppl, samplers
    >>> target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
    >>> draws = ppl.sample(samplers.NUTS(), target, rng_key=1, progress=False)
    >>> draws["x"].shape
    (4, 1000, 2)
    """
    rng_key = keys.as_key(rng_key)
    sampler = door.fit(sampler, target)
    door.check_thin(sampler, thin)
    match sampler:
        case MarkovKernel():
            plan = Plan(
                door.at_least(1, "num_samples", num_samples, SAMPLES),
                door.at_least(1, "num_chains", num_chains, sampler.usual_chains),
                door.at_least(0, "num_warmup", num_warmup, WARMUP),
                thin,
            )
            door.check_chains(sampler, plan)
            return _sample_markov(
                sampler, target, rng_key, plan, init, progress, checkpoint, mesh, until
            )
        case _:
            return _sample_population(
                sampler, target, rng_key, num_samples, num_chains, progress, checkpoint,
                until, {"num_warmup": num_warmup, "init": init, "mesh": mesh},
            )  # fmt: skip


@full_precision
def sample_batch(
    sampler: Sampler,
    targets: Stack,
    rng_key: Any = 0,
    num_samples: int | None = None,
    num_chains: int | None = None,
    num_warmup: int | None = None,
    init: Any = None,
    progress: bool | str = True,  # noqa: FBT001, FBT002
    checkpoint: str | Path | None = None,
    *,
    thin: int = 1,
) -> list[Draws]:
    """Run one sampler on a stack of targets with one compilation.

    Chains of fixed-length steps are vmapped over the targets; where trajectories differ in
    length the targets follow one another inside the compiled loop (``lax.map``). Samplers other
    than Markov kernels run one target after the other, with the same program.

    Parameters
    ----------
    sampler
        As in `sample`.
    targets
        ``ppl.stack([...])``: targets that differ in the values of their data only.
    rng_key
        As in `sample`; target ``i`` uses ``fold_in(rng_key, i)``.
    num_samples, num_chains, num_warmup, checkpoint, thin
        As in `sample`.
    progress
        Show one bar for the whole batch; a string is its label.
    init
        One unconstrained position, for every chain of every target.

    Returns
    -------
    list of Draws
        One for each target, in order; after Ctrl-C those so far.
    """
    rng_key = keys.as_key(rng_key)
    if not isinstance(targets, Stack):
        raise TargetError(
            f"sample_batch takes ppl.stack([target, ...]); got {type(targets).__name__}"
        )
    sampler = door.fit(sampler, targets[0])
    door.check_thin(sampler, thin)
    if not isinstance(sampler, MarkovKernel):
        return _one_by_one(
            sampler, targets, rng_key, progress, checkpoint,
            {"num_samples": num_samples, "num_chains": num_chains, "num_warmup": num_warmup,
             "init": init},
        )  # fmt: skip
    plan = Plan(
        door.at_least(1, "num_samples", num_samples, SAMPLES),
        door.at_least(1, "num_chains", num_chains, sampler.usual_chains),
        door.at_least(0, "num_warmup", num_warmup, WARMUP),
        thin,
    )
    door.check_chains(sampler, plan)
    started, compiled = about.now(), about.CompileClock.read()
    one = None if init is None else start.given(init, targets.stacked.template, plan.num_chains)
    sampler.check_start(targets[0], one)
    # None has no leaves.
    positions = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(targets), *x.shape)), one)
    run = Chains(
        sampler, targets.stacked, rng_key, plan, positions=positions, num_targets=len(targets)
    )
    store = _open(checkpoint, sampler, targets, rng_key, plan, started)
    label = progress if isinstance(progress, str) else type(sampler).__name__
    with Bar(plan.num_warmup + plan.num_samples * thin, label, progress) as bar:
        outcome = run.run(checkpoint=store, progress=bar.markov)
    _note_compile_time(outcome.tallies, compiled)
    result = []
    for i in range(len(targets)):
        # A kernel tuned for target i: every array of it has a leading target axis.
        kernel = entry(outcome.kernel, i)
        share = Outcome(
            jax.tree.map(lambda x: x[:, i], outcome.positions),  # noqa: B023
            {name: x[:, i] for name, x in outcome.stats.items()},
            kernel,
            _share(outcome.tallies, len(targets)),
            outcome.stopped,
            outcome.notes,
        )
        key = random.fold_in(rng_key, i)
        result.append(_draws_of(share, sampler, targets[i], key, plan, started))
    return result


def _one_by_one(
    sampler: Sampler,
    targets: Stack,
    rng_key: PRNGKeyArray,
    progress: bool | str,  # noqa: FBT001
    checkpoint: str | Path | None,
    options: dict[str, Any],
) -> list[Draws]:
    result: list[Draws] = []
    label = progress if isinstance(progress, str) else f"{type(sampler).__name__}, targets"
    with Bar(len(targets), label, progress) as bar:
        for i in range(len(targets)):
            here = None if checkpoint is None else Path(checkpoint) / f"target-{i:05d}"
            key = random.fold_in(rng_key, i)
            drawn = sample(sampler, targets[i], key, **options, progress=False, checkpoint=here)
            result.append(drawn)
            bar.history(1, {})
            if result[-1].run.stopped == "interrupted":
                break
    return result


# Markov chains --------------------------------------------------------------------------------


def _sample_markov(
    kernel: MarkovKernel,
    target: Energy,
    rng_key: PRNGKeyArray,
    plan: Plan,
    init: Any,
    progress: Any,
    checkpoint: str | Path | None,
    mesh: Any,
    until: Callable[[Draws], bool] | None,
) -> Draws:
    if isinstance(init, Draws):
        rng_key = keys.after(rng_key, init.run.rng_key.get("data", ()))
    started, compiled = about.now(), about.CompileClock.read()
    place = sharding.placer(mesh, plan.num_chains)
    positions = _positions(init, target, plan.num_chains, rng_key)
    kernel.check_start(target, positions)
    store = _open(checkpoint, kernel, target, rng_key, plan, started)
    run = Chains(
        kernel, target, rng_key, plan,
        positions=positions, place=place, continues=isinstance(init, Draws),
    )  # fmt: skip

    def check(run: Chains) -> bool:
        assert until is not None
        return bool(until(_draws_of(run.so_far(), kernel, target, rng_key, plan, started)))

    with Bar(
        plan.num_warmup + plan.num_samples * plan.thin, type(kernel).__name__, progress
    ) as bar:
        outcome = run.run(
            checkpoint=store, progress=bar.markov, check=None if until is None else check
        )
    _note_compile_time(outcome.tallies, compiled)
    return _draws_of(outcome, kernel, target, rng_key, plan, started)


def _positions(
    init: Any, target: Energy, num_chains: int, rng_key: PRNGKeyArray
) -> Position | None:
    key = keys.key_for(rng_key, keys.START)
    if init is None:
        floats = all(
            jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(target.template)
        )
        if floats:
            return None
        drawable = target if "sample" in target.offers else getattr(target, "prior", None)
        if isinstance(drawable, Prior):
            return drawable.sample(key, num_chains)
        raise TargetError(
            "a discrete target has no jittered start; pass init= with positions, or a function "
            "(rng_key, target, num_chains) -> positions"
        )
    if isinstance(init, Draws):
        return start.from_draws(init, target.template, num_chains, key)
    if callable(init):
        init = init(key, target, num_chains)
    return start.given(init, target.template, num_chains)


def _draws_of(
    outcome: Outcome,
    kernel: MarkovKernel,
    target: Energy,
    rng_key: PRNGKeyArray,
    plan: Plan,
    started: str,
) -> Draws:
    chains_first = jax.tree.map(lambda x: np.swapaxes(x, 0, 1), outcome.positions)
    tallies = outcome.tallies
    stats = {name: np.swapaxes(x, 0, 1) for name, x in outcome.stats.items()}
    evidence, notes = None, list(outcome.notes)
    if stats:
        evidence = outcome.kernel.log_evidence(stats)
        notes += outcome.kernel.notes(stats)
    run = Run(
        **_description(outcome.kernel, kernel, "markov", target, rng_key, plan),
        seconds=dict(tallies.seconds),
        evaluations=dict(tallies.evaluations),
        warmup_divergences=tallies.warmup_divergences,
        stopped=outcome.stopped,
        versions=about.versions() | {"device": about.device()},
        started=started,
        notes=notes,
    )
    run.num_samples = jax.tree.leaves(chains_first)[0].shape[1]
    return Draws(
        chains_first,
        target=target,
        sampler=outcome.kernel,
        stats=stats,
        run=run,
        log_evidence=evidence,
        num_evaluations=_total(tallies),
    )


def _description(
    tuned: Any, sampler: Sampler, kind: str, target: Any, rng_key: PRNGKeyArray, plan: Plan
) -> dict[str, Any]:
    return {
        "sampler": about.describe(tuned),
        "sampler_name": type(sampler).__name__,
        "exactness": sampler.exactness,
        "counted": list(sampler.counted),
        "kind": kind,
        "target": about.describe_target(target),
        "rng_key": about.key_data(rng_key),
        "num_chains": plan.num_chains,
        "num_samples": plan.num_samples,
        "num_warmup": plan.num_warmup,
        "thin": plan.thin,
    }


def _total(tallies: Tallies) -> tuple[int, int]:
    spent = list(tallies.evaluations.values()) or [[0, 0]]
    return sum(s[0] for s in spent), sum(s[1] for s in spent)


def _share(tallies: Tallies, num_targets: int) -> Tallies:
    """One target's part of what a batch has cost, on average."""
    return Tallies(
        {k: [n // num_targets for n in v] for k, v in tallies.evaluations.items()},
        {k: v / num_targets for k, v in tallies.seconds.items()},
        tallies.warmup_divergences // num_targets,
    )


def _note_compile_time(tallies: Tallies, before: float) -> None:
    timed = sum(seconds for phase, seconds in tallies.seconds.items() if phase != "compile")
    compiling = tallies.seconds.get("compile", 0.0) + about.CompileClock.read() - before
    # A few small programs run between the phases, which are what is timed.
    tallies.seconds["compile"] = min(compiling, timed)


# Particle, direct and learned samplers --------------------------------------------------------


def _sample_population(
    sampler: Sampler,
    target: Any,
    rng_key: PRNGKeyArray,
    num_samples: int | None,
    num_chains: int | None,
    progress: Any,
    checkpoint: str | Path | None,
    until: Callable[[Draws], bool] | None,
    refused: dict[str, Any],
) -> Draws:
    name = type(sampler).__name__
    if until is not None and not isinstance(sampler, LearnedSampler):
        raise ValueError(
            f"{name} ends by itself: until= (got {until!r}) is for Markov kernels and for the "
            "training of learned samplers"
        )
    for option, value in refused.items():
        if value is not None:
            raise ValueError(f"{name} is no Markov kernel: it takes no {option}= (got {value!r})")
    runs = door.at_least(1, "num_chains", num_chains, 1)
    particle = isinstance(sampler, ParticleSampler)
    if particle and num_samples is not None:
        raise ValueError(
            f"{name}'s draws are its particles: it takes no num_samples= (got {num_samples}). "
            "Write num_particles= in the sampler, and num_chains= for independent runs."
        )
    wanted = 0 if particle else door.at_least(1, "num_samples", num_samples, SAMPLES)
    plan = Plan(wanted, runs, 0, 1)
    started, compiled = about.now(), about.CompileClock.read()
    kind = door.kind(sampler)

    def draws_of(drawn: population.Drawn) -> Draws:
        run = Run(
            **_description(sampler, sampler, kind, target, rng_key, plan),
            seconds=dict(drawn.tallies.seconds),
            evaluations=dict(drawn.tallies.evaluations),
            stopped=drawn.stopped,
            versions=about.versions() | {"device": about.device()},
            started=started,
            notes=drawn.notes,
        )
        run.num_chains, run.num_samples = jax.tree.leaves(drawn.positions)[0].shape[:2]
        return Draws(
            drawn.positions,
            target=target,
            sampler=drawn.sampler,
            stats={},
            run=run,
            log_weights=drawn.log_weights,
            log_evidence=drawn.log_evidence,
            num_evaluations=_total(drawn.tallies),
            history=drawn.history,
        )

    if isinstance(sampler, ParticleSampler):
        store = _open(checkpoint, sampler, target, rng_key, plan, started)
        with Bar(None, name, progress) as bar:
            drawn = population.run_particles(
                sampler, target, rng_key, runs, checkpoint=store, progress=bar.history
            )
    elif isinstance(sampler, LearnedSampler):

        def store_of(run: int) -> Checkpoint:
            assert checkpoint is not None
            path = Path(checkpoint) / f"run-{run:03d}"
            opened = _open(path, sampler, target, random.fold_in(rng_key, run), plan, started)
            assert opened is not None
            return opened

        total = runs * (sampler.num_updates + wanted)
        with Bar(total, name, progress) as bar:
            drawn = population.run_learned(
                sampler, target, rng_key, runs, wanted,
                checkpoint=None if checkpoint is None else store_of, progress=bar.history,
                until=None if until is None else lambda drawn: until(draws_of(drawn)),
            )  # fmt: skip
    else:
        assert isinstance(sampler, DirectSampler)
        if checkpoint is not None:
            raise ValueError(
                f"{name} draws independently and keeps no state: it takes no checkpoint=; "
                "draw again with the same key, or draws.save(path)"
            )
        with Bar(runs * wanted, name, progress) as bar:
            drawn = population.run_direct(
                sampler, target, rng_key, runs, wanted, progress=bar.history
            )
    _note_compile_time(drawn.tallies, compiled)
    return draws_of(drawn)


def _open(
    path: str | Path | None,
    sampler: Sampler,
    target: Any,
    rng_key: PRNGKeyArray,
    plan: Plan,
    started: str,
) -> Checkpoint | None:
    if path is None:
        return None
    sizes = {"num_chains": plan.num_chains, "num_warmup": plan.num_warmup, "thin": plan.thin}
    representative = target.stacked if isinstance(target, Stack) else target
    run = _description(sampler, sampler, door.kind(sampler), representative, rng_key, plan)
    run |= {"started": started, "versions": about.versions() | {"device": about.device()}}
    return Checkpoint(path, fingerprint(sampler, target, rng_key, sizes), {"run": run})
