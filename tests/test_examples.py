"""Every example runs as a script; its last line compares a number with a known value."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What an example does in a short run is to compile: quickly, and from the cache where it can.
SHORT = {
    "SMOKE": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
# Twelve seconds and more, nearly all of it compilation: these wait for the slow run.
LONG = {
    "approximate_then_correct",
    "arrows_between_variables",
    "calibrate_a_model",
    "discrete_latents_with_gibbs",
    "evidence_of_a_model",
    "learn_a_sampler",
    "learn_from_pieces_of_paths",
    "modes_by_tempering",
    "noise_chosen_after_training",
    "particles_that_look_alike",
    "photographs_from_a_prior",
    "sequences_by_masked_diffusion",
    "steer_a_language_model",
    "steer_digits",
    "steer_sequences",
    "stochastic_volatility",
    "the_other_half_of_a_digit",
    "which_particle_sampler",
}
RUNS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
    for path in EXAMPLES
]


def test_the_long_examples_are_there():
    assert {path.stem for path in EXAMPLES} >= LONG


@pytest.mark.parametrize("path", RUNS)
def test_the_example_runs(path, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env={**os.environ, **SHORT},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert any(character.isdigit() for character in ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_a_page(path):
    """A title underlined, cells, and lines that fit a page; nothing private is used."""
    lines = path.read_text().splitlines()
    assert lines[0] == '"""'
    assert set(lines[2]) == {"="}
    assert len(lines[2]) == len(lines[1])
    assert any(line == "# %%" for line in lines)
    assert not [line for line in lines if "import _" in line or "._" in line]
