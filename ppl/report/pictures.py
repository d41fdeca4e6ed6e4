"""Section about an image that was seen through a linear operator: what it is, and how surely."""

import base64
import struct
import zlib

import numpy as np
from markupsafe import Markup, escape

from ppl.diagnostics.image_summary import ImageSummary, image_summary, observed_images
from ppl.report.blocks import Block, Cell, Section, Table, figure, number
from ppl.report.plots import Panel
from ppl.report.subject import Subject
from ppl.report.svg import Chart, Real

WIDTH = 360


def image(subject: Subject) -> Section | None:
    """Posterior mean, standard deviations, intervals, and whether the draws meet the data."""
    if observed_images(subject.draws) is None:
        return None
    found = image_summary(subject.draws, subject.truth)
    low, high = float(np.min(found.lower)), float(np.max(found.upper))
    share = f"{found.level:.0%}"
    panels = [
        picture("Posterior mean", found.mean, low, high),
        picture("Standard deviation", found.sd, 0.0, float(found.sd.max())),
        picture(f"Lower end of the {share} interval", found.lower, low, high),
        picture(f"Upper end of the {share} interval", found.upper, low, high),
        _row(found, share),
    ]
    if subject.truth is not None:
        true = np.asarray(subject.truth, np.float64)
        true = np.hypot(*true) if true.ndim == 3 else true
        panels.insert(0, picture("The truth", true, low, high))
    caption = (
        "Bright is high; mean and ends of the intervals share one scale. Where the standard "
        "deviation is bright the data say little, and what the mean shows there is the prior's. "
        "The chart has the mean of one row, and its intervals in grey."
    )
    blocks: list[Block] = [_facts(found), *figure(panels, caption)]
    return Section("image", "The image", blocks)


def _facts(found: ImageSummary) -> Table:
    rows = [_consistency(found)]
    for name, value, digits in (
        ("PSNR of the mean, in decibels", found.psnr, 3),
        ("SSIM of the mean", found.ssim, 3),
        ("CRPS of the draws", found.crps, 3),
        ("Truths in the intervals", found.coverage, 3),
    ):
        if value is not None:
            rows.append([Cell(name), Cell(number(value, digits))])
    caption = (
        "The misfit is the squared residual in units of the noise, for each number observed: 1 for "
        "draws of the posterior. Far below, the draws follow the noise; far above, they miss the "
        "data."
    )
    return Table([], rows, caption, "Draws and data")


def _consistency(found: ImageSummary) -> list[Cell]:
    value = found.consistency
    words = f"{number(value)} (expected 1 ± {number(found.tolerance, 2)})"
    if found.is_consistent:
        return [Cell("Misfit of the draws"), Cell(words)]
    words += ": the draws follow the noise" if value < 1 else ": the draws miss the data"
    return [Cell("Misfit of the draws"), Cell(words, "warn")]


def _row(found: ImageSummary, share: str) -> Panel:
    """The row of pixels that is least certain, with its interval."""
    mean, lower, upper = found.mean, found.lower, found.upper
    i = int(np.argmax(found.sd.mean(axis=1)))
    columns = np.arange(1, mean.shape[1] + 1)
    room = 0.05 * float(np.ptp([lower[i].min(), upper[i].max()]))
    chart = Chart(
        (1, mean.shape[1]),
        (float(lower[i].min()) - room, float(upper[i].max()) + room),
        label=f"Mean and {share} interval along row {i + 1}, the least certain one",
        x_label="column",
    )
    chart.band(columns, lower[i], upper[i])
    chart.line(columns, mean[i], "c0")
    return Panel(f"Row {i + 1}", chart.svg(), "the least certain one")


def picture(title: str, values: np.ndarray, low: Real, high: Real) -> Panel:
    """An image in grey, black at ``low`` and white at ``high``."""
    rows, columns = values.shape
    height = WIDTH * rows / columns
    label = f"{title}: {rows} x {columns} pixels, from {number(low)} to {number(high)}"
    svg = Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(label)}"><image width="{WIDTH}" height="{height:.0f}" '
        'preserveAspectRatio="none" style="image-rendering: pixelated" '
        f'href="{png(values, low, high)}"/></svg>'
    )
    return Panel(title, svg, f"{number(low)} to {number(high)}")


def png(values: np.ndarray, low: Real, high: Real) -> str:
    """A picture of 256 greys as a data URI; what is not finite is black."""
    span = high - low or 1.0
    grey = np.nan_to_num(np.clip((values - low) / span, 0, 1)) * 255
    rows, columns = grey.shape
    lines = b"".join(b"\0" + row.tobytes() for row in np.rint(grey).astype(np.uint8))

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines, 9)), chunk(b"IEND", b"")
    whole = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return "data:image/png;base64," + base64.b64encode(whole).decode()
