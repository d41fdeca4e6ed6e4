"""What a page is made of, before it is HTML: sections of prose, facts, tables and figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ppl.report.plots import Panel
from ppl.report.svg import Real, minus, scientific


@dataclass(frozen=True)
class Cell:
    """A cell of a table; ``flag`` (``"warn"`` or ``"bad"``) marks it by a sign and a color."""

    text: str | Markup
    flag: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column names the row and stays in sight when the rest scrolls."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    label: str
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """Panels with one caption that says what to look for.

    ``legend`` holds (css class, word) pairs; ``folded`` panels are shown on request.
    """

    panels: Sequence[Panel]
    caption: str
    legend: Sequence[tuple[str, str]] = ()
    folded: Sequence[Panel] = ()
    kind: str = "figure"


@dataclass(frozen=True)
class Prose:
    """A paragraph, or a list of them."""

    text: Sequence[str]
    kind: str = "prose"


@dataclass(frozen=True)
class Code:
    """Text to be copied."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Download:
    """A link to a file that the page itself holds, or that lies beside it."""

    href: str
    file: str
    text: str
    kind: str = "download"


type Block = Table | Figure | Prose | Code | Download


@dataclass(frozen=True)
class Section:
    """A heading, its anchor, and what stands under it."""

    anchor: str
    title: str
    blocks: Sequence[Block]


def figure(
    panels: Sequence[Panel | None],
    caption: str,
    *,
    legend: Sequence[tuple[str, str]] = (),
    first: int = 9,
) -> list[Block]:
    """A figure of the panels that could be drawn; none when there is none."""
    drawn = [panel for panel in panels if panel is not None]
    if not drawn:
        return []
    return [Figure(drawn[:first], caption, legend, drawn[first:])]


def facts(rows: Sequence[tuple[str, str]], caption: str, label: str) -> Table:
    """A table of names and values, without a head."""
    return Table([], [[Cell(name), Cell(value)] for name, value in rows], caption, label)


def number(value: Real | None, digits: int = 3) -> str:
    """A number for reading: significant digits, separators of thousands, a real minus sign."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude >= 7 or magnitude < -4:
        return scientific(value)
    return minus(f"{value:,.{max(0, digits - 1 - magnitude)}f}")


def aligned(value: Real, resolution: Real) -> str:
    """A number with as many decimals as its Monte Carlo error supports, and not more than five."""
    if not (math.isfinite(value) and math.isfinite(resolution)) or resolution <= 0:
        return number(value)
    decimals = 1 - math.floor(math.log10(resolution))
    if decimals > 5 or abs(value) >= 1e7:
        return number(value, 4)
    # Adding zero after rounding makes a negative zero positive.
    return minus(f"{round(float(value), max(0, decimals)) + 0.0:,.{max(0, decimals)}f}")


def count(value: Real) -> str:
    """A whole number."""
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def seconds(value: Real) -> str:
    """A duration."""
    if value < 0.0095:
        return f"{1000 * value:.1f}\N{NO-BREAK SPACE}ms"
    if value < 100:
        return (
            f"{value:.2f}\N{NO-BREAK SPACE}s" if value < 10 else f"{value:.1f}\N{NO-BREAK SPACE}s"
        )
    if value < 5400:
        return f"{value / 60:.1f}\N{NO-BREAK SPACE}min"
    return f"{value / 3600:.1f}\N{NO-BREAK SPACE}h"


def plural(amount: int, noun: str) -> str:
    """``1 chain``, ``4 chains``."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")
