"""The table of solvers, the files on disk and the docstrings tell the same story."""

import csv
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import samplers
from samplers.diffusion import solvers
from samplers.diffusion.paths import EDM
from samplers.diffusion.schedules import EDMSchedule
from samplers.diffusion.solvers.solver import Solver

ROWS = samplers.solvers()


def solver_classes():
    """Every public solver that a module of the folder defines."""
    found = {}
    for info in pkgutil.iter_modules(solvers.__path__, f"{solvers.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            mine = inspect.isclass(value) and value.__module__ == info.name
            if mine and issubclass(value, Solver) and not inspect.isabstract(value):
                found[name] = value
    found.pop("Solver", None)
    return found


def test_every_solver_on_disk_is_in_the_table_and_no_other():
    assert {row.name for row in ROWS} == {n for n in solver_classes() if not n.startswith("_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_docstring_of_a_solver_cites_its_paper(row):
    text = inspect.getdoc(importlib.import_module(row.module)) or ""
    assert row.paper in text
    assert row.title.lower() in " ".join(
        (text + inspect.getdoc(getattr(samplers, row.name))).lower().split()
    )
    listed = set(re.findall(r"^\.\. \[(\d+)\]", text, re.MULTILINE))
    assert set(re.findall(r"(?<!\.\. )\[(\d+)\]", text)) <= listed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_what_the_solver_does(row):
    solver = eval(f"samplers.{row.example}", {"samplers": samplers})
    assert type(solver).__name__ == row.name
    rows = solver.table(EDM(), EDMSchedule(), 12).rows
    assert (rows.S.shape[2] > 0) == (not row.noise.startswith("none"))
    a_step = re.fullmatch(r"(\d) a step", row.cost)
    if a_step:  # and one for the last step, to the denoised value itself
        assert len(rows.F) == 11 * int(a_step[1]) + 1
        assert solver.evaluations_per_step == int(a_step[1])


def test_every_solver_has_its_errors_on_the_site():
    """At each number of evaluations that it can be run with, on all three priors."""
    with (Path(__file__).parents[3] / "docs" / "solver_errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {
        (row["prior"], row["solver"].split("(")[0], int(row["evaluations"]))
        for row in rows
        if row["measure"] == "law"
    }
    for prior in ("three modes", "25 modes", "digits"):
        for row in ROWS:
            for evaluations in (5, 10, 20, 50):
                too_few = row.name == "Restart" and evaluations < 20
                assert ((prior, row.name, evaluations) in found) != too_few
    assert {row["prior"] for row in rows if row["measure"] == "floor"} == {
        "three modes",
        "25 modes",
        "digits",
    }
