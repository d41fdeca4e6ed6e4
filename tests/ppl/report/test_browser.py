"""The page in a real browser: nothing sticks out on a phone or a desk, light or dark.

The page is put into frames of several widths (their media queries see the width of the frame), a
script outside the page measures it, and the browser prints the measurements as HTML.
"""

import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

import ppl
import samplers
from models.targets.gaussian import Gaussian
from ppl.calibrate import Calibration
from ppl.diagnostics.calibration import judge, table_of
from ppl.report.page import report
from report_pages import make_draws, model_groups, nuts_stats

WIDTHS = (320, 375, 1280)

# What is wider than its page: the page as a whole, or a chart's words outside of the chart's panel.
MEASURE = """
const result = {};
for (const frame of document.querySelectorAll("iframe")) {
  const page = frame.contentDocument, width = frame.clientWidth;
  const out = [...page.querySelectorAll(".chart text, .panel-title, .verdict *, .facts *, h1, h2")]
    .filter(e => !e.closest(".table"))  // a table scrolls in its own frame
    .filter(e => e.getBoundingClientRect().right > width + 1 || e.getBoundingClientRect().left < -1)
    .map(e => e.textContent);
  result[width] = {
    scroll: page.documentElement.scrollWidth,
    out,
    font: parseFloat(page.defaultView.getComputedStyle(page.querySelector(".chart text")).fontSize)
      * page.querySelector(".chart").getBoundingClientRect().width / 360,
    paper: page.defaultView.getComputedStyle(page.body).backgroundColor,
    resources: page.defaultView.performance.getEntriesByType("resource").map(e => e.name),
  };
}
document.body.innerHTML = "<pre>RESULT" + JSON.stringify(result) + "RESULT</pre>";
"""


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no browser on PATH; one of {', '.join(names)} is needed to look at pages"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def measured(browser, page, folder, *, dark: bool) -> dict:
    style = "border: 0; height: 900px; width:"
    frames = "".join(
        f'<iframe style="{style} {width}px" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    outer = folder / f"outer-{dark}.html"
    outer.write_text(
        '<!doctype html><html style="color-scheme: light dark"><meta charset="utf-8">'
        f"<body>{frames}"
        f"<script>addEventListener('load', () => {{{MEASURE}}});</script>",
        encoding="utf-8",
    )
    command = [
        browser,
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-extensions", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"),
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        *("--window-size=1400,1000", "--dump-dom", outer.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    match = re.search("RESULT(.*)RESULT", done.stdout, re.DOTALL)
    assert match, f"the browser measured nothing: {done.stderr[-2000:]}"
    return json.loads(html.unescape(match[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Chains beside weighted draws, with long names and many columns."""
    generator = np.random.default_rng(0)
    long = "a_parameter_with_a_name_that_has_no_place_to_break_anywhere_at_all"
    chains = make_draws(
        {
            long: generator.normal(size=(4, 300)),
            "theta": 1e6 * np.exp(3 * generator.normal(size=(4, 300, 12))),
        },
        stats=nuts_stats(generator, 4, 300, 20),
        groups=model_groups(generator, generator.normal(size=60), {}),
        run={"notes": ["/a/very/long/path/" + "x" * 120], "target": "model_" + "y" * 80},
    )
    weighted = make_draws(
        {"theta": generator.normal(size=(2, 300, 12))},
        log_weights=3 * generator.normal(size=(2, 300)),
        run={"kind": "particle", "sampler_name": "TemperedSMC", "target": "model_" + "y" * 80},
    )
    path = tmp_path_factory.mktemp("report") / "page.html"
    return report({"chains " + "z" * 60: chains, "weighted": weighted}, path).read_text("utf-8")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Samplers with long names, one of them refused in a long sentence."""
    name = "a sampler whose name is " + "z" * 60
    entered = {name: samplers.ExactDraws(), "refused": samplers.ImportanceSampling()}
    found = ppl.compare(Gaussian(12), entered, budget=4000, num_seeds=2, progress=False)
    return found.report(tmp_path_factory.mktemp("comparison") / "page.html").read_text("utf-8")


@pytest.mark.parametrize("which", ["page", "comparison"])
def test_page_fits_every_width_in_light_and_dark(which, browser, tmp_path, request):
    page = request.getfixturevalue(which)
    light = measured(browser, page, tmp_path, dark=False)
    dark = measured(browser, page, tmp_path, dark=True)
    for result in (light, dark):
        assert {int(width): seen["scroll"] for width, seen in result.items()} == {
            width: width for width in WIDTHS
        }
        assert [seen["out"] for seen in result.values()] == [[]] * len(WIDTHS)
        # The words of a chart stay legible where the chart is small.
        assert all(seen["font"] > 8.5 for seen in result.values())
        assert all(seen["resources"] == [] for seen in result.values())
    assert light["375"]["paper"] != dark["375"]["paper"]


def test_the_page_of_a_calibration_fits_every_width(browser, tmp_path):
    generator = np.random.default_rng(0)
    labels = ["a_quantity_with_a_name_that_has_no_place_to_break_anywhere", "log_density"]
    found = calibration_of(generator.uniform(0.2, 0.6, size=(60, 2)), labels)
    text = found.report(tmp_path / "page.html").read_text("utf-8")
    for result in (measured(browser, text, tmp_path, dark=dark) for dark in (False, True)):
        assert {int(width): seen["scroll"] for width, seen in result.items()} == {
            width: width for width in WIDTHS
        }
        assert [seen["out"] for seen in result.values()] == [[]] * len(WIDTHS)
        assert all(seen["font"] > 8.5 for seen in result.values())


def calibration_of(ranks, labels) -> Calibration:
    """A calibration with given ranks, one fit of which failed."""
    number = len(ranks)
    fits = {"r_hat": 1.01, "divergences": 3, "stuck": 0, "failed": "", "ess": 90.0, "draws": 400}
    rows = [fits | {"r_hat": 1.0 + i / 5000} for i in range(number)]
    rows[7] |= {"failed": "chains that disagree", "r_hat": np.inf}
    about = {
        "target": "Program model_" + "y" * 80, "template": "{mu: float32[]}",
        "sampler": "NUTS(step_size=0.4)", "sampler_name": "NUTS", "exactness": "exact",
        "num_chains": 4, "num_samples": 100, "num_warmup": 100, "false_alarms": 0.01,
        "rng_key": {"data": [0, 7]}, "versions": {"ppl": "0.1.0"}, "started": "2026-01-02",
        "ended": "2026-01-02", "around_data": False, "generator": None,
    }  # fmt: skip
    frame = pd.DataFrame(ranks, columns=labels)
    effective = pd.DataFrame(np.full(ranks.shape, 90), columns=labels)
    table = table_of(frame, np.array([False, True]), 0.01)
    judgement = judge(table, effective, pd.DataFrame(rows), 0.01, about, ["A note."])
    return Calibration(frame, effective, pd.DataFrame(rows), table, judgement, about)
