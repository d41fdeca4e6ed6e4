"""Every example runs as a script; its last line compares a number with a known value.

As a script in the process of the tests: to start one of its own takes five seconds of imports.
"""

import os
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Twelve seconds and more, nearly all of it compilation: these wait for the slow run.
LONG = {
    "approximate_then_correct",
    "arrows_between_variables",
    "bring_your_numpyro_model",
    "calibrate_a_model",
    "compose_priors",
    "diffusion_solvers",
    "discrete_latents_with_gibbs",
    "evidence_of_a_model",
    "imaging_with_error_bars",
    "inside_numpyro",
    "learn_a_sampler",
    "learn_from_pieces_of_paths",
    "level_of_a_river",
    "many_chains",
    "modes_by_tempering",
    "modes_of_bit_strings",
    "noise_chosen_after_training",
    "particles_that_look_alike",
    "photographs_from_a_prior",
    "sequences_by_masked_diffusion",
    "sequences_by_walk_jump",
    "steer_a_language_model",
    "steer_digits",
    "steer_sequences",
    "stochastic_volatility",
    "the_other_half_of_a_digit",
    "train_a_diffusion_prior",
    "which_langevin",
    "which_particle_sampler",
}
RUNS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
    for path in EXAMPLES
]


def test_the_long_examples_are_there():
    assert {path.stem for path in EXAMPLES} >= LONG


@pytest.mark.parametrize("path", RUNS)
@pytest.mark.usefixtures("unoptimized")  # what an example does in a short run is to compile
def test_the_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMOKE", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(path), run_name="__main__")
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
    assert any(character.isdigit() for character in capsys.readouterr().out.splitlines()[-1])


def test_an_example_runs_in_a_process_of_its_own(tmp_path):
    path = Path(__file__).parents[1] / "examples" / "write_a_sampler.py"
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env={**os.environ, "SMOKE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_a_page(path):
    """A title underlined, cells, and lines that fit a page; nothing private is used."""
    lines = path.read_text().splitlines()
    assert lines[0] == '"""'
    assert set(lines[2]) == {"="}
    assert len(lines[2]) == len(lines[1])
    assert any(line == "# %%" for line in lines)
    assert not [line for line in lines if "import _" in line or "._" in line]
