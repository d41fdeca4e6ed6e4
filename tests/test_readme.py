"""What the README says is true: its table, its code, its output, its links."""

import contextlib
import io
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

import ppl
import samplers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN_BY_THE_BUILD = re.compile(r"methods/(index|solvers)\.md|examples/\w+")
README = (ROOT / "README.md").read_text()
EXAMPLE, WALK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(OUTPUT,) = re.findall(r"```\n(     mean.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_repository(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for to in links:
        if "://" in to or (page.parent / to).exists():
            continue
        assert page.parent.name == "docs", to
        assert WRITTEN_BY_THE_BUILD.fullmatch(to), to
        assert not to.startswith("examples/") or (ROOT / f"{to}.py").exists(), to


def row(method):
    """A row of the README's table, as `samplers.table` has it."""
    kind, _, number = method.paper.partition(":")
    home = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    paper = f"[{method.paper}]({home[kind]}{number})" if kind in home else method.paper
    needs = ", ".join(name.replace("_", "-") for name in sorted(method.needs))
    return f"| `{method.name}` | {method.title} | {method.exactness} | {needs} | {paper} |"


def test_the_table_of_samplers_is_that_of_the_library():
    (table,) = re.findall(
        r"<!-- table of samplers -->\n(.*?)<!-- end of table -->", README, re.DOTALL
    )
    head = ["| sampler | method | draws are | needs | paper |", "| --- | --- | --- | --- | --- |"]
    assert table.splitlines() == [*head, *map(row, samplers.table())]


def test_the_picture_of_the_report_is_small():
    assert (ROOT / "docs" / "report.png").stat().st_size < 300_000


def test_the_sampler_to_copy_is_a_sampler():
    names = {}
    exec(WALK, names)
    target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x["a"] ** 2), {"a": jnp.zeros(2)})
    draws = ppl.sample(
        names["Walk"](step_size=1.0), target, num_chains=2, num_samples=500, num_warmup=50,
        progress=False,
    )  # fmt: skip
    assert draws["a"].shape == (2, 500, 2)
    assert 0.2 < draws.stats["is_accepted"].mean() < 0.9
    assert 0.5 < draws["a"].std() < 1.5


@pytest.mark.slow  # 20 seconds: it compiles NUTS
def test_the_example_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(EXAMPLE, {})
    (tmp_path / "report.html").stat()
    lines, shown = printed.getvalue().splitlines(), OUTPUT.splitlines()
    assert lines[0].split() == shown[0].split()
    # The last digits depend on the processor and on the versions of what computes them.
    for line, other in zip(lines[1:], shown[1:], strict=True):
        name, mean, sd, *_ = line.split()
        assert name == other.split()[0]
        assert float(mean) == pytest.approx(float(other.split()[1]), abs=0.3)
        assert float(sd) == pytest.approx(float(other.split()[2]), abs=0.3)
