"""Sections about the run: what it cost, how to repeat it, what it warned about."""

from typing import Any

import numpy as np

from ppl.draws import PHASES
from ppl.report.blocks import (
    Cell,
    Code,
    Prose,
    Section,
    Table,
    count,
    facts,
    number,
    plural,
    seconds,
)
from ppl.report.subject import Subject


def cost(subject: Subject) -> Section:
    """Evaluations and wall times by phase."""
    run = subject.draws.run
    rows = []
    for phase, name in PHASES.items():
        if phase in run.evaluations or phase in run.seconds:
            density, gradient = run.evaluations.get(phase, [0, 0])
            rows.append(_cost_row(name, density, gradient, run.seconds.get(phase)))
    density, gradient = subject.draws.num_evaluations
    rows.append(_cost_row("all", density, gradient, run.wall_seconds))
    caption = f"Evaluations of the {run.counted[0]} and of the {run.counted[1]}, and wall times."
    compiling = run.seconds.get("compile", 0.0)
    if compiling:
        caption += f" Compilation took {seconds(compiling)} of the time."
    least = np.fmin(subject.column("ess_bulk"), subject.column("ess_tail"))
    least = least[np.isfinite(least)] if not subject.is_empty else np.zeros(0)
    spent = max(density, gradient)
    running = run.wall_seconds - compiling
    if len(least) and spent and running > 0:
        caption += (
            f" That is {number(1000 * least.min() / spent)} effective draws per 1,000 evaluations "
            f"and {number(least.min() / running)} per second"
            + (", compilation apart" if compiling else "")
            + ", for the parameter with the fewest."
        )
    if run.warmup_divergences:
        caption += f" Warm-up had {plural(run.warmup_divergences, 'divergence')}, which is usual."
    table = Table(["", *run.counted, "time"], rows, caption, "Cost of the run")
    return Section("cost", "What it cost", [table])


def _cost_row(name: str, density: int, gradient: int, time: float | None) -> list[Cell]:
    clock = "–" if time is None else seconds(time)
    return [Cell(name), Cell(count(density)), Cell(count(gradient)), Cell(clock)]


def reproduction(subject: Subject) -> Section:
    """Key, sizes, settings and versions."""
    run = subject.draws.run
    rows = [
        ("Target", run.target),
        ("Sampler, as tuned", run.sampler),
        ("Its claim", run.exactness),
        ("Draws", f"{plural(run.num_chains, subject.unit)} of {run.num_samples:,}"),
        ("Warm-up", plural(run.num_warmup, "step") if run.num_warmup else "none"),
        ("Thinning", f"one in {run.thin}" if run.thin > 1 else "none"),
        ("Started", run.started or "–"),
        ("Ended", run.stopped),
        *((name, version) for name, version in run.versions.items()),
    ]
    table = facts(rows, "", "How to repeat the run")
    return Section(
        "reproduce", "How to repeat it", [table, Prose(["The key:"]), Code(key_text(run.rng_key))]
    )


def key_text(rng_key: dict[str, Any]) -> str:
    """A key as code."""
    data = np.array2string(np.asarray(rng_key.get("data", [])), separator=", ")
    implementation = rng_key.get("impl", "threefry2x32")
    return (
        f'rng_key = jax.random.wrap_key_data(jnp.array({data}, "uint32"), impl="{implementation}")'
    )


def notes(subject: Subject) -> Section | None:
    """What the run warned about."""
    if not subject.draws.run.notes:
        return None
    return Section("notes", "Notes", [Prose(list(subject.draws.run.notes))])
