"""The table of methods, the files on disk and the docstrings tell the same story."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import samplers
from ppl.sampler import Sampler

ROWS = samplers.table()
ROOT = Path(samplers.__file__).parent


def sampler_classes() -> dict[str, type]:
    """Every public sampler that a module of the package defines."""
    found = {}
    for info in pkgutil.walk_packages([str(ROOT)], "samplers."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            mine = inspect.isclass(value) and value.__module__ == info.name
            public = not name.startswith("_") and not inspect.isabstract(value)
            if mine and public and issubclass(value, Sampler):
                found[name] = value
    return found


def test_every_sampler_on_disk_is_in_the_table_and_no_other():
    classes = sampler_classes()
    assert {row.name: row.module for row in ROWS} == {
        name: cls.__module__ for name, cls in classes.items()
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_what_the_class_says(row):
    cls = getattr(samplers, row.name)
    assert cls.__name__ == row.name
    assert row.exactness == cls.exactness
    assert set(row.needs) == cls.needs
    assert row.tier in ("core", "method", "research")
    assert row.cost


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_docstrings_cite_the_paper_and_say_how_exact_the_method_is(row):
    cls = getattr(samplers, row.name)
    module = inspect.getdoc(importlib.import_module(row.module)) or ""
    assert row.paper in module
    assert row.title.lower() in " ".join(module.lower().split())
    assert row.exactness.lower() in (module + inspect.getdoc(cls)).lower()
    # Every work that the text refers to is listed, and every one listed has an address.
    listed = set(re.findall(r"^\.\. \[(\d+)\]", module, re.MULTILINE))
    assert set(re.findall(r"(?<!\.\. )\[(\d+)\]", module)) <= listed


EXAMPLES = "\n".join(path.read_text() for path in (ROOT.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_method_has_an_example(row):
    assert re.search(rf"\bsamplers\.{row.name}\(", EXAMPLES)


def test_importing_the_package_imports_no_method():
    code = (
        "import sys, samplers; samplers.table(); dir(samplers)\n"
        "assert not [m for m in sys.modules if m.startswith('samplers.')]\n"
        "assert 'jax' not in sys.modules\n"
        "assert samplers.ExactDraws is samplers.ExactDraws\n"
        "assert 'samplers.direct' in sys.modules and 'samplers.mcmc' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("Nuts", "NUTS"), ("Mala", "MALA"), ("RWM", "RandomWalk"), ("ADVI", "GaussianVI")],
)
def test_a_name_that_is_not_there_gets_the_nearest(wrong, right):
    with pytest.raises(AttributeError, match=rf"no attribute '{wrong}'.* samplers\.{right}\b"):
        getattr(samplers, wrong)


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'$"):
        samplers.xyzzy  # noqa: B018
    assert not hasattr(samplers, "__path_of_nothing__")


def test_all_names_are_there():
    assert set(samplers.__all__) <= set(dir(samplers))
    for name in samplers.__all__:
        assert getattr(samplers, name) is not None
