"""Tables of inverse problems, from the figures of ``docs/*.csv``.

These files are what ``tests/benchmarks/bench_inverse.py``, ``bench_mixture.py`` and
``bench_images.py`` have measured; nothing is measured here.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
OUT = DOCS / "_build" / "inverse_problems"
TASKS = ("inpainting", "deblurring", "super-resolution", "tomography", "resonance")
SHAPES = tuple(f"{d}, {m}" for d in (8, 80, 800) for m in (1, 2, 4))


def rows(name: str) -> list[dict[str, Any]]:
    """Lines of a file; what looks like a number is one."""
    with (DOCS / name).open() as file:
        return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def number(text: str) -> Any:
    """A number, if it is one."""
    try:
        return float(text)
    except ValueError:
        return text


def markdown(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """A table."""
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def label(row: dict[str, Any]) -> str:
    """A method's name, as code where it is a class."""
    name = row["method"]
    return name if name[0].islower() else f"`{name}`"


def fields(case: str) -> str:
    """Calibration on random fields; what is calibrated is bold."""
    head = "method,draws are,fields,covers 0.90,sd ratio,mean error,residual,CRPS,calls a draw"
    body = []
    for row in rows("inverse_fields.csv"):
        if row["case"] != case:
            continue
        cells = [
            f"{row['coverage']:.3f} ± {row['coverage s.e.']:.3f}",
            *(f"{row[key]:.2f}" for key in ("sd ratio", "mean error", "residual", "crps ratio")),
        ]
        if row["crps ratio"] != row["crps ratio"]:
            cells = ["diverges"] + ["–"] * (len(cells) - 1)
        mark = "**" if row["calibrated"] == "True" else ""
        cells = [f"{mark}{cell}{mark}" for cell in cells]
        body.append(
            [label(row), row["draws are"], f"{row['fields']:.0f}", *cells, f"{row['calls']:,.0f}"]
        )
    return markdown(head.split(","), body)


def distance(row: dict[str, Any]) -> str:
    """A distance and its 95 % interval; draws of some problem may have no end."""
    few = "" if row["problems"] == 20 else f" ({row['problems']:.0f})"
    if row["distance"] == float("inf"):
        return "diverges" + few
    return f"{row['distance']:.2f} ± {1.96 * row['s.e.']:.2f}{few}"


def mixture(particles: bool) -> str:  # noqa: FBT001
    """Distances to exact draws, a row a method and a column a shape."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows("inverse_mixture.csv"):
        table.setdefault(row["method"], {})[row["case"]] = row
    known = {row["case"] for row in rows("inverse_mixture.csv")}
    shapes = [s for s in SHAPES if s in known and (not particles or s.startswith("8,"))]
    body = []
    for name, found in table.items():
        if ("," in name) != particles and name != "exact draws":
            continue
        first = next(iter(found.values()))
        title, _, number = name.partition(", ")
        cells = [distance(found[s]) if s in found else "–" for s in shapes]
        counts = " × ".join(f"{int(n):,}" for n in number.split(" x ") if n)
        shown = label({"method": title}) + (f", {counts}" if counts else "")
        body.append([shown, first["draws are"], *cells])
    return markdown(["method", "draws are", *shapes], body)


def images(prior: str, cell: Any) -> str:
    """One figure of each method on each task."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows("images_restored.csv"):
        if row["prior"] == prior:
            table.setdefault(row["method"], {})[row["task"]] = row
    body = []
    for found in table.values():
        first = next(iter(found.values()))
        cells = [cell(found[t]) if t in found else "–" for t in TASKS]
        body.append([label(first), *cells, f"{first['calls']:,.0f}"])
    return markdown(["method", *TASKS, "calls a draw"], body)


def with_error(key: str, digits: int) -> Any:
    """A figure and its standard error; none where the draws have diverged."""

    def cell(row: dict[str, Any]) -> str:
        value, error = row[key], row[f"{key}_se"]
        return "–" if value != value else f"{value:.{digits}f} ± {error:.{digits}f}"

    return cell


def short(row: dict[str, Any]) -> str:
    """Misfit to the data, in units of the noise."""
    value = row["residual"]
    return "–" if value != value else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def pages() -> Iterator[tuple[str, str]]:
    """Names and texts."""
    for case in ("mask", "blur"):
        yield case, fields(case)
    yield "mixture", mixture(particles=False)
    yield "particles", mixture(particles=True)
    for prior in ("crops", "digits"):
        yield f"{prior}_psnr", images(prior, with_error("psnr", 1))
        yield f"{prior}_coverage", images(prior, with_error("coverage", 2))
        yield f"{prior}_residual", images(prior, short)


def write() -> None:
    """Write what the pages include."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (OUT / f"{name}.md").write_text(text)


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", lambda app, config: write())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
