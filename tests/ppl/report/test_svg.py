"""Charts as SVG text."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from ppl.report.svg import Chart, minus, scientific, ticks


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(chart.svg()))


def test_ticks_are_round_numbers_inside_the_range():
    assert [text for _, text in ticks(0, 10)] == ["0", "2", "4", "6", "8", "10"]
    assert [text for _, text in ticks(-0.11, 0.11, count=4)] == [
        "−0.10",
        "−0.05",
        "0.00",
        "0.05",
        "0.10",
    ]
    assert [text for _, text in ticks(1, 1000)] == ["200", "400", "600", "800", "1,000"]


def test_ticks_of_very_large_and_small_ranges_are_powers_of_ten():
    assert [text for _, text in ticks(0, 3e7, count=3)] == ["0", "10⁷", "2×10⁷", "3×10⁷"]
    assert all("×10⁻" in text or text == "0" for _, text in ticks(0, 7e-8) if text != "10⁻⁸")


def test_log_ticks_are_decades_or_parts_of_one():
    assert [text for _, text in ticks(0.1, 1000, log=True)] == ["0.1", "1", "10", "100", "1,000"]
    assert [text for _, text in ticks(2, 30, log=True)] == ["2", "5", "10", "20"]


@pytest.mark.parametrize(
    ("value", "text"), [(1e6, "10⁶"), (-2.5e-7, "−2.5×10⁻⁷"), (1.234e9, "1.23×10⁹")]
)
def test_scientific_notation_is_set_with_superscripts(value, text):
    assert scientific(value) == text


def test_minus_sign_is_not_a_hyphen():
    assert minus("-1") == "\N{MINUS SIGN}1"


def test_lines_break_where_a_value_is_not_finite():
    chart = Chart((0, 4), (0, 4), label="x")
    chart.line([0, 1, 2, 3, 4], [0, 1, np.nan, 3, 4])
    path = next(e for e in parsed(chart).iter() if "line" in e.get("class", ""))
    assert path.get("d", "").count("M") == 2


def test_charts_carry_no_ids_and_no_colors():
    chart = Chart((0, 1), (0, 1), label="x", x_label="a", y_label="b")
    chart.line([0, 1], [0, 1])
    chart.dots([0.5], [0.5], "bad")
    chart.band([0, 1], [0, 0], [1, 1])
    text = str(chart.svg())
    assert not re.search(r'\bid=|#[0-9a-f]{3}|style=|fill="|stroke="', text)


def test_words_in_a_chart_are_escaped():
    chart = Chart((0, 1), (0, 1), label='a<b & "c"', x_label="<script>", y_label="$x_1^{2}$")
    chart.note(0.5, 0.5, "<b>")
    root = parsed(chart)
    assert root.get("aria-label") == 'a<b & "c"'
    words = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"<script>", "$x_1^{2}$", "<b>"} <= set(words)


@pytest.mark.parametrize(
    "bounds",
    [
        (0, 0),
        (3, 3),
        (np.nan, np.nan),
        (-np.inf, np.inf),
        (1e300, 1e300),
        (5, 5 + 1e-15),
        (0, 5e-324),
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_ranges_without_extent_still_make_a_chart(bounds, log):
    chart = Chart(bounds, bounds, label="x", x_log=log, y_log=log)
    chart.line([0, 1], [0, 1])
    chart.guide(x=0.5, y=0.5, text="here")
    assert "nan" not in str(chart.svg())
    assert "inf" not in str(chart.svg())


def test_numbers_far_outside_are_cut_short():
    chart = Chart((0, 1), (0, 1), label="x")
    chart.line([0, 1e200], [-1e200, np.inf])
    assert "e+" not in str(chart.svg())
