"""Charts as SVG text: lines, dots, bands and bars on two axes, colored by the page's style sheet.

A report holds dozens of small charts. Written directly they take the fonts of the page and its
light or dark colors, carry no ids that could clash, weigh a few kB, and cost about a millisecond
each; a plotting library's cost a hundred times that and have their colors baked in. A mark is
colored by a class such as ``c0``, which the style sheet of the page defines.
"""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

CHARACTER = 6.3  # Width of a digit of a tick label, in units of the view box.

type Real = float | int
type Range = tuple[Real, Real]
type Values = np.ndarray | np.generic | Sequence[Real] | Real
type Ticks = Sequence[tuple[Real, str]]


class Chart:
    """Two axes and what is drawn on them.

    Parameters
    ----------
    x, y
        The ranges shown. Marks outside are cut off; an empty or infinite range is widened.
    label
        What the chart shows, in words, for those who do not see it.
    x_ticks, y_ticks
        ``(value, text)`` pairs instead of the usual ticks; ``()`` for none.
    x_log, y_log
        Whether an axis is logarithmic; its range must then be positive.
    """

    def __init__(
        self,
        x: Range,
        y: Range,
        *,
        label: str,
        x_label: str = "",
        y_label: str = "",
        x_ticks: Ticks | None = None,
        y_ticks: Ticks | None = None,
        x_log: bool = False,
        y_log: bool = False,
        width: int = 360,
        height: int = 190,
    ):
        self._x_log, self._y_log = x_log, y_log
        self._x_range = widened(x, log=x_log)
        self._y_range = widened(y, log=y_log)
        self._x_ticks = ticks(*self._x_range, log=x_log) if x_ticks is None else x_ticks
        self._y_ticks = ticks(*self._y_range, log=y_log, count=4) if y_ticks is None else y_ticks
        self._label, self._x_label, self._y_label = label, x_label, y_label
        widest = max((len(text) for _, text in self._y_ticks), default=0)
        self._left = min(10 + CHARACTER * widest, 0.45 * width) if widest else 6.0
        self._top = 18.0 if y_label else 8.0
        self._bottom = 22.0 if self._x_ticks else 8.0
        self._bottom += 14.0 if x_label else 0.0
        self._size = (width - self._left - 10, height - self._top - self._bottom)
        self._frame = (width, height)
        self._marks: list[str] = []
        self._notes: list[str] = []

    def line(self, x: Values, y: Values, css: str = "c0") -> None:
        """A line through the points; it breaks where a coordinate is not finite."""
        self._marks.append(f'<path class="line {css}" d="{_path(*self._place(x, y))}"/>')

    def dots(self, x: Values, y: Values, css: str = "c0") -> None:
        """One dot for each finite point: line segments of length zero with round ends."""
        px, py = self._place(x, y)
        keep = np.isfinite(px) & np.isfinite(py)
        points = zip(_numbers(px[keep]), _numbers(py[keep]), strict=True)
        d = "".join(f"M{a} {b}h0" for a, b in points)
        self._marks.append(f'<path class="dots {css}" d="{d}"/>')

    def band(self, x: Values, lower: Values, upper: Values, css: str = "band") -> None:
        """The area between two lines."""
        lower_x, lower_y = self._place(x, lower)
        upper_x, upper_y = self._place(x, upper)
        px = np.concatenate([lower_x, upper_x[::-1]])
        py = np.concatenate([lower_y, upper_y[::-1]])
        keep = np.isfinite(px) & np.isfinite(py)
        if keep.any():
            self._marks.append(f'<path class="area {css}" d="{_path(px[keep], py[keep])}Z"/>')

    def area(self, x: Values, y: Values, css: str = "c0") -> None:
        """A line and the area between it and the horizontal axis."""
        self.band(x, np.full(np.shape(x), self._y_range[0]), y, css)
        self.line(x, y, css)

    def bars(self, edges: Values, heights: Values, css: str = "c0") -> None:
        """A histogram: ``heights[i]`` between ``edges[i]`` and ``edges[i + 1]``."""
        heights = np.asarray(heights, float)
        x = np.repeat(np.asarray(edges, float), 2)
        self.area(x, np.concatenate([[0.0], np.repeat(heights, 2), [0.0]]), css)

    def spans(self, lower: Values, upper: Values, y: Values, css: str = "c0") -> None:
        """Horizontal strokes from ``lower`` to ``upper`` at the heights ``y``."""
        self._strokes(self._place(lower, y), self._place(upper, y), css)

    def pillars(self, x: Values, lower: Values, upper: Values, css: str = "c0") -> None:
        """Vertical strokes from ``lower`` to ``upper`` at the places ``x``."""
        self._strokes(self._place(x, lower), self._place(x, upper), css)

    def guide(self, *, x: Real | None = None, y: Real | None = None, text: str = "") -> None:
        """A dashed line across the chart at ``x`` or at ``y``, with a word beside it."""
        if y is not None:
            height = self._point(self._x_range[0], y)[1]
            self._marks.append(f'<path class="guide" d="M0 {height:.1f}H{self._size[0]:.1f}"/>')
            self._note(self._size[0] - 2, height - 4, text, "end")
        if x is not None:
            place = self._point(x, self._y_range[0])[0]
            self._marks.append(f'<path class="guide" d="M{place:.1f} 0V{self._size[1]:.1f}"/>')
            self._note(place + 4, 10, text, "start")

    def note(self, x: Real, y: Real, text: str, *, anchor: str = "start", css: str = "") -> None:
        """A word at a point; ``anchor`` is SVG's ``start``, ``middle`` or ``end``."""
        self._note(*self._point(x, y), text, anchor, css)

    def svg(self) -> Markup:
        """The chart as an ``<svg>`` element, to be put into a page."""
        width, height = self._frame
        inner_width, inner_height = self._size
        grid, labels = self._axes()
        # A nested <svg> clips its content without the id that a clip path would need.
        body = (
            f'<g class="grid">{grid}</g>'
            f'<svg x="{self._left:.1f}" y="{self._top:.1f}" width="{inner_width:.1f}" '
            f'height="{inner_height:.1f}">{"".join(self._marks)}</svg>'
            f'<path class="axis" d="M{self._left:.1f} {self._top + inner_height:.1f}'
            f'h{inner_width:.1f}"/>{labels}'
            f'<g transform="translate({self._left:.1f} {self._top:.1f})">'
            f"{''.join(self._notes)}</g>"
        )
        return Markup(
            f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{escape(self._label)}">{body}</svg>'
        )

    def _axes(self) -> tuple[str, str]:
        left, top = self._left, self._top
        width, height = self._size
        grid, labels = [], []
        for value, text in self._y_ticks:
            y = top + self._point(self._x_range[0], value)[1]
            if top - 1 <= y <= top + height + 1:
                grid.append(f'<path d="M{left:.1f} {y:.1f}h{width:.1f}"/>')
                labels.append(_text(left - 6, y + 3.8, text, "end"))
        for value, text in self._x_ticks:
            x = left + self._point(value, self._y_range[0])[0]
            if left - 1 <= x <= left + width + 1:
                grid.append(f'<path d="M{x:.1f} {top + height:.1f}v4"/>')
                # A label at the very edge would stick out of the picture.
                room = CHARACTER * len(text) / 2
                x = min(max(x, room), self._frame[0] - room)
                labels.append(_text(x, top + height + 16, text, "middle"))
        if self._x_label:
            middle, foot = left + width / 2, self._frame[1] - 4
            labels.append(_text(middle, foot, self._x_label, "middle", "name"))
        if self._y_label:
            labels.append(_text(0, 10, self._y_label, "start", "name"))
        return "".join(grid), "".join(labels)

    def _place(self, x: Values, y: Values) -> tuple[np.ndarray, np.ndarray]:
        """From data to the inner view box, far outliers pulled in to keep the numbers short."""
        px = _fraction(x, self._x_range, log=self._x_log) * self._size[0]
        py = (1 - _fraction(y, self._y_range, log=self._y_log)) * self._size[1]
        return px, py

    def _point(self, x: Real, y: Real) -> tuple[float, float]:
        px, py = self._place(x, y)
        return float(px[0]), float(py[0])

    def _strokes(
        self, start: tuple[np.ndarray, np.ndarray], end: tuple[np.ndarray, np.ndarray], css: str
    ) -> None:
        columns = (*start, *end)
        keep = np.all(np.isfinite(columns), axis=0)
        rows = zip(*(_numbers(column[keep]) for column in columns), strict=True)
        d = "".join(f"M{a} {b}L{c} {e}" for a, b, c, e in rows)
        self._marks.append(f'<path class="stroke {css}" d="{d}"/>')

    def _note(self, x: Real, y: Real, text: str, anchor: str, css: str = "") -> None:
        if text and math.isfinite(x) and math.isfinite(y):
            self._notes.append(_text(x, y, text, anchor, f"note {css}".strip()))


def ticks(
    lower: Real, upper: Real, *, log: bool = False, count: int = 5
) -> list[tuple[float, str]]:
    """About ``count`` round values between two bounds, with their texts."""
    if log:
        return _log_ticks(lower, upper, count)
    raw = (upper - lower) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    first, last = math.ceil(lower / step - 1e-9), math.floor(upper / step + 1e-9)
    values = [k * step for k in range(first, last + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    biggest = max((abs(v) for v in values), default=0.0)
    if biggest >= 1e6 or digits > 4:
        return [(v, scientific(v) if v else "0") for v in values]
    return [(v, minus(f"{v + 0.0:,.{digits}f}")) for v in values]


def _log_ticks(lower: Real, upper: Real, count: int) -> list[tuple[float, str]]:
    low, high = math.floor(math.log10(lower)), math.ceil(math.log10(upper))
    decades = high - low
    multiples = (1, 2, 5) if decades <= 2 else (1,)
    stride = max(1, math.ceil(decades / (count + 1)))
    values = [m * 10.0**k for k in range(low, high + 1, stride) for m in multiples]
    plain = low >= -3 and high <= 5
    return [
        (v, f"{v:,g}" if plain else scientific(v)) for v in values if lower <= v <= upper * 1.0001
    ]


def scientific(value: Real) -> str:
    """Three significant digits and a power of ten: ``1.2×10⁵``."""
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return minus(f"10{power}" if mantissa == "1" else f"{mantissa}×10{power}")


def minus(text: str) -> str:
    """The sign as typographers set it."""
    return text.replace("-", "\N{MINUS SIGN}")


def widened(bounds: Range, *, log: bool = False) -> tuple[float, float]:
    """A range that ticks and bins can divide: finite, and wide enough for double precision."""
    lower, upper = (float(bound) for bound in bounds)
    if not (math.isfinite(lower) and math.isfinite(upper)) or (log and lower <= 0):
        return (0.1, 1.0) if log else (0.0, 1.0)
    # Narrower than what a double resolves: ticks could not differ.
    if upper - lower <= max(1e-12 * max(abs(lower), abs(upper)), 1e-290):
        room = max(abs(lower) * 0.05, 1e-6)
        return (lower / 2, lower * 2) if log else (lower - room, lower + room)
    return lower, upper


def _fraction(values: Values, bounds: Range, *, log: bool) -> np.ndarray:
    values = np.atleast_1d(np.asarray(values, float))
    lower, upper = bounds
    if log:
        values = np.log10(np.where(values > 0, values, np.nan))
        lower, upper = math.log10(lower), math.log10(upper)
    with np.errstate(invalid="ignore", over="ignore"):
        fraction = (values - lower) / (upper - lower)
    fraction = np.where(np.isinf(values), np.nan, fraction)
    return np.clip(fraction, -3.0, 4.0)


def _numbers(values: np.ndarray) -> list[str]:
    return [f"{v:g}" for v in np.round(values, 1).tolist()]


def _path(x: np.ndarray, y: np.ndarray) -> str:
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return ""
    pieces = []
    for run in np.ma.clump_unmasked(np.ma.masked_array(x, mask=~finite)):
        pairs = zip(_numbers(x[run]), _numbers(y[run]), strict=True)
        pieces.append("M" + " ".join(f"{a} {b}" for a, b in pairs))
    return "".join(pieces)


def _text(x: Real, y: Real, text: str, anchor: str, css: str = "tick") -> str:
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
