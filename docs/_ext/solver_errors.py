"""Tables and figures of the errors of solvers, from ``docs/solver_errors.csv``.

That file is what ``tests/benchmarks/bench_solvers.py`` has measured; nothing is measured here.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1]
OUT = DOCS / "_build" / "solver_errors"
BUDGETS = (5, 10, 20, 50)
SCHEDULES = {  # and what columns call them
    "EDMSchedule()": "EDM",
    "LogSNRUniform()": "log SNR",
    "InformationUniform()": "inf.",
}
PRIORS = ("three modes", "25 modes", "digits")
TWENTY = {
    "twenty": "three modes, 20 steps from 10 to 0.02",
    "twenty_on_all": "three modes, 20 steps from 80 to 0.002",
}
SHOWN = ("DDIM()", "Heun()", "DPMSolverPP(2)", "DEIS(4)", "IPNDM()", "UniPC(3)")
SHOWN_WITH_NOISE = ("DDPM()", "DPMSolverPP(2, tau=1)", "SASolver()", "ERSDE()", "Restart()")


class Error(NamedTuple):
    """One figure, and its standard error."""

    value: float
    std_error: float


def measured() -> dict[tuple[str, ...], Error]:
    """Errors by prior, schedule, solver, measure and evaluations."""
    with (DOCS / "solver_errors.csv").open() as file:
        return {
            tuple(list(row.values())[:5]): Error(float(row["value"]), float(row["std_error"]))
            for row in csv.DictReader(file)
        }


def names(errors: dict[Any, Error], prior: str, measure: str) -> list[str]:
    """Solvers that have this figure, in the order of the file."""
    found = [key[2] for key in errors if key[0] == prior and key[3] == measure]
    return list(dict.fromkeys(found))


def table(errors: dict[Any, Error], prior: str, measure: str) -> str:
    """All schedules side by side, the least of each column in bold."""
    columns = [(schedule, str(n)) for schedule in SCHEDULES for n in BUDGETS]
    solvers = names(errors, prior, measure)
    at = lambda solver, column: errors.get((prior, column[0], solver, measure, column[1]))
    shown = lambda error: "–" if error is None else f"{error.value:.2g}"
    least = [
        min((e.value for s in solvers if (e := at(s, column)) is not None), default=0.0)
        for column in columns
    ]

    def cell(error: Error | None, smallest: float) -> str:
        # Bold: what cannot be told from the least.
        near = error is not None and error.value <= smallest + 2 * error.std_error
        return f"**{shown(error)}**" if near else shown(error)

    lines = [
        "| solver | " + " | ".join(f"{SCHEDULES[at]} {n}" for at, n in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for solver in solvers:
        cells = [cell(at(solver, c), small) for c, small in zip(columns, least, strict=True)]
        lines.append(f"| `{solver}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def twenty(errors: dict[Any, Error], prior: str) -> str:
    """Stochastic solvers in 20 steps."""
    lines = ["| solver | schedule | evaluations | distance |", "| --- | --- | ---: | ---: |"]
    for (name, schedule, solver, _, evaluations), error in errors.items():
        if name == prior:
            figure = f"{error.value:.4f} ± {error.std_error:.4f}"
            lines.append(f"| {solver} | {schedule or '–'} | {evaluations} | {figure} |")
    return "\n".join(lines)


def draw(errors: dict[Any, Error], prior: str, path: Path) -> None:
    """Errors over evaluations: of the solution on the left, of the law on the right."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    titles = ("error of the solution", "distance to the law")
    for axis, measure, shown in zip(axes, ("map", "law"), (SHOWN, SHOWN_WITH_NOISE), strict=True):
        for solver in names(errors, prior, measure):
            key = lambda n, s=solver, m=measure: (prior, "LogSNRUniform()", s, m, str(n))
            found = [(n, errors[key(n)].value) for n in BUDGETS if key(n) in errors]
            options = {"marker": "o", "label": solver} if solver in shown else {"color": "0.8"}
            axis.loglog(*zip(*found, strict=True), zorder=2 + (solver in shown), **options)
        axis.set(xlabel="evaluations of the denoiser", title=titles[measure == "law"])
        axis.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
        axis.minorticks_off()
        axis.set_ylim(top=2 if prior != "digits" else None)
        axis.legend(fontsize=7)
    floor = errors[(prior, "", "exact draws", "floor", "0")].value
    axes[1].axhline(floor, color="0.4", linestyle=":")
    figure.savefig(path)
    plt.close(figure)


def write() -> None:
    """Write what the page includes."""
    OUT.mkdir(parents=True, exist_ok=True)
    errors = measured()
    for prior in PRIORS:
        name = prior.replace(" ", "_")
        draw(errors, prior, OUT / f"{name}.svg")
        for measure in ("map", "law"):
            (OUT / f"{name}_{measure}.md").write_text(table(errors, prior, measure))
    for name, prior in TWENTY.items():
        (OUT / f"{name}.md").write_text(twenty(errors, prior))


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", lambda app, config: write())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
