"""Models, targets, samplers and settings by name: what is found, and what is said otherwise."""

import argparse
import sys

import numpy as np
import pytest

import ppl
from ppl import modelfile
from ppl.modelfile import InputError, load_object, load_target, match

MODEL = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

dims = {"effect": ["group"]}
coords = {"group": ["a", "b"]}


def model(y, group, scale=2.0):
    effect = numpyro.sample("effect", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(effect[group], scale), obs=y)


def data():
    return {"y": jnp.array([1.0, 2.0, 3.0]), "group": jnp.array([0, 0, 1])}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A current directory of the test's own; the path and what was imported there are put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(MODEL)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


# Objects --------------------------------------------------------------------------------------


def test_a_file_may_import_what_lies_beside_it(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "neighbor_of_file.py").write_text("VALUE = 7\n")
    (folder / "sub" / "user.py").write_text("from neighbor_of_file import VALUE\n")
    assert load_object("sub/user.py:VALUE")[0] == 7


def test_a_module_is_found_in_the_current_directory(folder):
    (folder / "a_users_package").mkdir()
    (folder / "a_users_package" / "inner.py").write_text("VALUE = 8\n")
    assert load_object("a_users_package.inner:VALUE")[0] == 8


def test_a_file_called_like_a_module_hides_no_module(folder):
    (folder / "json.py").write_text("VALUE = 9\n")
    assert load_object("json.py:VALUE")[0] == 9
    assert hasattr(sys.modules["json"], "dumps")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mine.py", r"'mine\.py' names no object: write file\.py:name or package\.module:name"),
        ("mine.py:", "names no object"),
        ("absent.py:model", r"there is no file absent\.py \(looked for /.*absent\.py\)"),
        ("mine.py:modle", "has no 'modle'; did you mean 'model'. There are: dims, coords, model"),
        ("absent.module:model", "there is no module 'absent' to import$"),
        ("mine:modle", r"mine has no 'modle'; .*For the file mine\.py write mine\.py:modle"),
        ("wrong.py:model", r"wrong\.py failed on import, line 2: NameError: name 'numpyr'"),
        ("syntax.py:model", r"syntax\.py failed on import: SyntaxError: "),
        ("leaves.py:model", r"leaves\.py failed on import, line 1: SystemExit: 3"),
        ("needs.py:model", r"line 1: ModuleNotFoundError: No module named 'not_installed'"),
        ("hidden.py:model", "Here 'models' is the library's package: a file or folder of your own"),
        (
            "models:model",
            r"models has no 'model'; .*For the file models\.py write models\.py:model",
        ),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_sentence(folder, spec, message):
    import models  # noqa: F401  # the library's, as the command line imports it first

    (folder / "wrong.py").write_text("import numpyro\nnumpyr.sample\n")
    (folder / "syntax.py").write_text("def model(:\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "needs.py").write_text("import not_installed\n")
    (folder / "hidden.py").write_text("from models import helper\n")
    (folder / "models.py").write_text("def model(): pass\n")
    with pytest.raises(InputError, match=message):
        load_object(spec)


# Data and model -------------------------------------------------------------------------------


def test_data_are_matched_by_name():
    def model(a, /, b, c=3, *, d=4):
        return None

    assert match(model, {"d": 40, "b": 20, "a": 10}, "data.json") == ([10], {"b": 20, "d": 40})
    assert match(lambda a, **rest: None, {"a": 1, "z": 2}, "") == ([], {"a": 1, "z": 2})


def test_missing_and_unknown_names_are_listed_with_both_sides():
    def model(y, sigma, scale=1.0):
        return None

    with pytest.raises(InputError) as error:
        match(model, {"y": 1, "sigm": 2, "extra": 3}, "data.json")
    assert str(error.value) == (
        "the data do not match the model's arguments; missing: sigma; unknown: sigm, extra. "
        "model takes: y, sigma, scale. data.json has: y, sigm, extra"
    )


def test_a_models_own_data_are_used_with_its_labels():
    target, source = load_target("mine.py:model")
    assert source == "data() of mine.py"
    assert target.dims["effect"] == ["group"]
    assert target.coords["group"].tolist() == ["a", "b"]


def test_other_data_take_the_place_of_the_models_own(folder):
    (folder / "d.json").write_text('{"y": [1.0], "group": [0], "scale": 1.5}')
    target, source = load_target("mine.py:model", ["d.json"])
    assert source == "d.json"
    np.testing.assert_array_equal(target.observed_data["y"], [1.0])
    assert target.dims["effect"] == ["group"]


def test_a_target_is_taken_as_it_is(folder):
    code = "import ppl, jax.numpy as jnp\n"
    code += "target = ppl.from_log_density(lambda x: -(x**2), jnp.zeros(()))\n"
    (folder / "density.py").write_text(code)
    target, source = load_target("density.py:target")
    assert isinstance(target, ppl.Energy)
    assert source == ""
    with pytest.raises(InputError, match="is a target that holds its data: it takes no --data"):
        load_target("density.py:target", ["d.json"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("model = 3", "is 3; expected a NumPyro model .a function. or a target made by"),
        ("class model: pass", "is a class; expected a NumPyro model"),
        ("def model(y): pass", "missing: y. model takes: y. no data file was given, and --data"),
        ("def model(y): pass\ndef data(): return [1]", r"data\(\) of x\.py gives list; expected"),
        ("def model(y): pass\ndef data(): return 1 / 0", r"data\(\) of x\.py failed, line 2: Zero"),
        ("def model(): pass", "latent"),
    ],
)
def test_what_is_no_model_is_refused(folder, code, message):
    (folder / "x.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        load_target("x.py:model")


# Samplers and settings ------------------------------------------------------------------------

OWN = """
import jax.numpy as jnp
from ppl.sampler import DirectSampler, positive, size

class Own(DirectSampler):
    exactness = "biased"
    scale: object = positive("scale")
    count: int = size("count", default=2)
    num_samples: int = size("num_samples", default=5)

    def draw(self, rng_key, target, n):
        return jnp.zeros(n), None
"""


def options(*settings, **given):
    defaults = {"seed": None, "chains": None, "samples": None, "warmup": None}
    return argparse.Namespace(set=list(settings), **(defaults | given))


@pytest.fixture
def own(folder):
    (folder / "own.py").write_text(OWN)
    return modelfile.sampler_class("own.py:Own")


def test_values_are_read_as_numbers_words_and_lists():
    settings = ["a=3", "b=1e-3", "c=.5", "d=true", "e=None", "f=[1, 2]", "g=inf", "h=False"]
    values = modelfile.parse_settings(settings)
    assert values == {
        "a": 3, "b": 1e-3, "c": 0.5, "d": True, "e": None, "f": [1, 2], "g": np.inf, "h": False,
    }  # fmt: skip
    assert type(values["a"]) is int


def test_a_value_may_be_an_object_to_import(folder):
    (folder / "parts.py").write_text("class Part:\n    pass\n\nrule = len\n")
    values = modelfile.parse_settings(["a=parts.py:Part", "b=parts.py:rule"])
    assert type(values["a"]).__name__ == "Part"
    assert values["b"] is len


def test_settings_go_to_the_sampler_first_and_then_to_the_run(own):
    settings = options("scale=2", "num_samples=7", "num_chains=3", "thin=2", seed=4, samples=9)
    fields, sizes = modelfile.split_settings(settings, own)
    assert fields == {"scale": 2, "num_samples": 7}
    assert sizes == {"num_chains": 3, "thin": 2, "rng_key": 4, "num_samples": 9}
    sampler = modelfile.make_sampler(own, fields)
    assert float(sampler.scale) == 2.0
    assert sampler.num_samples == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["scale"], "--set takes NAME=VALUE, such as num_warmup=500; got 'scale'"),
        (["scale="], "--set takes NAME=VALUE"),
        (["scale=1", "scale=2"], "--set gives scale twice"),
        (["scale=big"], "--set scale=big: a value is a number, a list of numbers, true, false"),
        (["num_chain=2"], "neither Own nor ppl.sample has it; did you mean 'num_chains'"),
        (["sacle=2"], "did you mean 'scale'. There are: scale, count, num_samples"),
        (["rng_key=2"], "rng_key is given twice: by --set and by an option of its own"),
    ],
)
def test_wrong_settings_are_refused(own, settings, message):
    with pytest.raises(InputError, match=message):
        modelfile.split_settings(options(*settings, seed=1), own)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Own needs scale: add --set scale=..."),
        ({"scale": -1}, "scale must be a positive number; got -1"),
        ({"scale": 1, "count": 1.5}, "count must be an integer, at least 1; got 1.5"),
    ],
)
def test_what_a_sampler_refuses_is_bad_input(own, fields, message):
    with pytest.raises(InputError, match=message):
        modelfile.make_sampler(own, fields)


def test_a_class_that_is_no_sampler_is_refused(folder):
    (folder / "other.py").write_text("class Other:\n    pass\n")
    with pytest.raises(InputError, match="other.py:Other is no sampler class"):
        modelfile.sampler_class("other.py:Other")
