"""What the site writes from the library itself: the table of methods, a page for each, the gallery.

Nothing here is said twice: name, paper, exactness, needs, cost and tier are those of
`samplers.table`, which a test compares with the classes.
"""

import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any

import models.environments
import models.inverse
import models.programs
import models.targets
import ppl.adapters
import ppl.diagnostics
import samplers

DOCS = Path(__file__).parents[1]
EXAMPLES = DOCS.parent / "examples"
FAMILIES = {
    "mcmc": "Markov chains",
    "langevin": "Langevin kernels",
    "smc": "Particles",
    "diffusion": "Diffusion",
    "trajectory": "Diffusion samplers from energies",
    "gflownet": "Generative flow networks",
    "transport": "Transport",
    "variational": "Approximations, corrected by weights",
    "direct": "Exact draws",
}
FIRST = [
    "quickstart",
    "bring_your_own_density",
    "bring_your_numpyro_model",
    "how_to_choose_a_sampler",
    "judge_your_run",
    "hierarchical_model",
]
LAST = ["write_a_sampler"]


class ReadingOrder:
    """Order of the gallery: what a newcomer reads first, then by name."""

    def __init__(self, src_dir: str):
        self.src_dir = src_dir

    def __repr__(self) -> str:
        return "<ReadingOrder>"

    def __call__(self, filename: Any) -> tuple[int, str]:
        stem = Path(str(filename)).stem
        if stem in FIRST:
            return FIRST.index(stem), stem
        return len(FIRST) + (stem in LAST), stem


def family(row: samplers.Method) -> str:
    """Folder of a method's module."""
    return row.module.split(".")[1]


def paper(row: Any) -> str:
    """Link to a method's paper, where it has one."""
    kind, _, number = row.paper.partition(":")
    home = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"[{row.paper}](<{home[kind]}{number}>)" if kind in home else row.paper or "none"


def needs(row: samplers.Method) -> str:
    """What the target must offer, in words; a gradient brings its log-density along."""
    names = set(row.needs) - ({"log_density"} if "gradient" in row.needs else set())
    return ", ".join(name.replace("_", "-") for name in sorted(names))


def examples(row: samplers.Method) -> list[str]:
    """Names of the examples that run a method."""
    call = re.compile(rf"\bsamplers\.{row.name}\(")
    return [path.stem for path in sorted(EXAMPLES.glob("*.py")) if call.search(path.read_text())]


def table() -> str:
    """The table of methods, a part for each family."""
    parts = []
    for name, title in FAMILIES.items():
        rows = [row for row in samplers.table() if family(row) == name]
        if rows:
            parts.append(f"## {title}\n\n{_rows(rows)}")
    return "\n\n".join(parts)


def _rows(rows: list[samplers.Method]) -> str:
    head = "| sampler | method | draws are | needs | costs | tier | paper |"
    lines = [head, "| " + " | ".join(["---"] * 7) + " |"]
    lines += [
        f"| [`{row.name}`]({row.name}.md) | {row.title} | {row.exactness} | {needs(row)} "
        f"| {row.cost} | {row.tier} | {paper(row)} |"
        for row in rows
    ]
    return "\n".join(lines)


INDEX = """# Table of methods

*Exact*: leaves the target invariant, or draws from it. *Asymptotically exact*: consistent as its
budget grows, through weights or more particles. *Biased*: its draws follow a law near the target,
and the verdict on them says so. The *core* serves any target with good defaults and is what
`ppl list` shows; a *method* is a published one for those who want it; *research* may change or go.
[How to choose](../examples/how_to_choose_a_sampler) says where to start.

{table}

```{{toctree}}
:hidden:

{names}
solvers
```
"""

SOLVERS = """# Solvers of diffusion priors

They go into [`DiffusionSampler`](DiffusionSampler.md): `samplers.DiffusionSampler(solver=
samplers.DDIM(), schedule=samplers.EDMSchedule(), num_steps=20)`. The order is that of the error in
the step size, weak where noise is added, and each is tested; the cost is in calls of the denoiser.
[Which solver, at how many evaluations?](../solver_errors.md) compares them all.

{table}

{pages}
"""

PAGE = """# {row.name}: {row.title}

| draws are | needs | costs | tier | paper | in the examples |
| --- | --- | --- | --- | --- | --- |
| {row.exactness} | {needs} | {row.cost} | {row.tier} | {paper} | {examples} |

```{{eval-rst}}
.. automodule:: {row.module}
   :no-members:

.. autoclass:: {row.module}.{row.name}
   :no-members:
```
"""


MODULE = """## {name}

```{{eval-rst}}
.. automodule:: {module}
   :members:
```
"""


def page(row: samplers.Method) -> str:
    """Page of one method: its row, then the docstrings of its module and class."""
    links = ", ".join(f"[{name.replace('_', ' ')}](../examples/{name})" for name in examples(row))
    return PAGE.format(row=row, needs=needs(row), paper=paper(row), examples=links or "none")


def solvers() -> str:
    """The page of the solvers: their table, then the docstrings of their modules."""
    head = "| solver | method | order | costs | adds noise | paper |"
    lines = [head, "| " + " | ".join(["---"] * 6) + " |"]
    lines += [
        f"| `{row.example}` | {row.title} | {row.order} | {row.cost} | {row.noise} | {paper(row)} |"
        for row in samplers.solvers()
    ]
    modules = dict.fromkeys(row.module for row in samplers.solvers())
    pages = [MODULE.format(name=name.rpartition(".")[2], module=name) for name in modules]
    return SOLVERS.format(table="\n".join(lines), pages="\n".join(pages))


def write(path: Path, text: str) -> None:
    """Write only what has changed, so that only that is read again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def write_methods() -> None:
    """Write the pages of ``docs/methods``."""
    folder = DOCS / "methods"
    names = [row.name for row in samplers.table()]
    for stale in folder.glob("*.md"):
        if stale.stem not in [*names, "index", "solvers"]:
            stale.unlink()
    for row in samplers.table():
        write(folder / f"{row.name}.md", page(row))
    write(folder / "solvers.md", solvers())
    write(folder / "index.md", INDEX.format(table=table(), names="\n".join(names)))


def write_modules(name: str, title: str, packages: list[Any]) -> None:
    """Write a page of the API reference with the public modules of packages, in order."""
    modules = [
        info.name
        for package in packages
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        if not info.ispkg and not info.name.rpartition(".")[2].startswith("_")
    ]
    parts = [MODULE.format(name=module.rpartition(".")[2], module=module) for module in modules]
    write(DOCS / "api" / f"{name}.md", f"# {title}\n\n" + "\n".join(parts))


def copy_examples() -> None:
    """Copy the examples to where they may write, with a title for the gallery."""
    folder = DOCS / "_build" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.py"):
        if not (EXAMPLES / stale.name).exists():
            stale.unlink()
    for path in EXAMPLES.glob("*.py"):
        shutil.copyfile(path, folder / path.name)
    title = "Examples"
    intro = (
        "One question each, executed when this site is built: figures and numbers are of that run."
    )
    write(folder / "GALLERY_HEADER.rst", f"{title}\n{'=' * len(title)}\n\n{intro}\n")


def prepare(app: Any, config: Any) -> None:
    """Before anything is read."""
    write_methods()
    write_modules("diagnostics", "Diagnostics", [ppl.diagnostics])
    write_modules("adapters", "Adapters", [ppl.adapters])
    targets = [models.targets, models.programs, models.inverse, models.environments]
    write_modules("models", "Targets that come with the library", targets)
    copy_examples()


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", prepare, priority=1)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
