"""Checkpoints: a killed run goes on with the bits of the run that was never killed."""

import os
import random as stdlib_random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import ppl
from ppl import about, checkpoint, markov
from ppl.checkpoint import CheckpointError
from samplers.mcmc.random_walk import RandomWalk
from samplers.variational.gaussian import GaussianVI


def log_density(x, location):
    return -0.5 * jnp.sum((x - location) ** 2)


def gaussian(location=0.0):
    return ppl.from_log_density(log_density, jnp.zeros(2), location)


def run(path=None, sampler=None, target=None, rng_key=3, **options):
    sizes = {"num_samples": 60, "num_chains": 2, "num_warmup": 40, "progress": False}
    return ppl.sample(
        sampler or RandomWalk(), target or gaussian(), rng_key, checkpoint=path, **sizes | options
    )


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.fixture
def kill_after(monkeypatch):
    """Die before (or after) the ``n``-th state is written, in chunks of seven steps."""
    steps = lambda self, limit, thin, capacity: min(limit, 7 * thin)  # noqa: E731
    monkeypatch.setattr(markov.Pace, "steps", steps)
    save = checkpoint.Checkpoint.save_state

    def arm(n, *, written):
        left = [n]

        def dying(self, state, counters):
            left[0] -= 1
            if left[0] == 0 and not written:
                raise Killed
            save(self, state, counters)
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(checkpoint.Checkpoint, "save_state", dying)

    return arm


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("n", [2, 8, 12])  # in warm-up, at the first draws, in the middle
def test_a_killed_run_resumes_bit_for_bit(tmp_path, kill_after, n, written):
    whole = run()
    kill_after(n, written=written)
    with pytest.raises(Killed):
        run(tmp_path)
    kill_after(1000, written=True)
    resumed = run(tmp_path)
    assert np.array_equal(resumed["x"], whole["x"])
    for name, stat in whole.stats.items():
        assert np.array_equal(resumed.stats[name], stat), name
    assert resumed.num_evaluations == whole.num_evaluations


def test_a_larger_num_samples_extends_a_finished_run(tmp_path):
    run(tmp_path)
    assert np.array_equal(run(tmp_path, num_samples=90)["x"], run(num_samples=90)["x"])
    assert np.array_equal(run(tmp_path, num_samples=30)["x"], run(num_samples=30)["x"])


def test_a_killed_run_can_be_read_without_its_target(tmp_path, kill_after):
    kill_after(12, written=True)
    with pytest.raises(Killed):
        run(tmp_path)
    draws = ppl.load(tmp_path)
    assert 0 < draws.num_samples < 60
    assert np.array_equal(draws["x"], run()["x"][:, : draws.num_samples])
    assert draws.run.sampler_name == "RandomWalk"
    assert draws.num_evaluations[0] > 0
    again = run(init=draws.attach(gaussian()), num_samples=5)
    assert again["x"].shape == (2, 5, 2)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"target": gaussian(1.0)}, "target"),
        (
            {
                "target": ppl.from_log_density(
                    lambda x, m: -jnp.sum((x - m) ** 4), jnp.zeros(2), 0.0
                )
            },
            "target",
        ),
        ({"sampler": RandomWalk(step_size=0.3)}, "sampler"),
        ({"rng_key": 4}, "rng_key"),
        ({"num_chains": 3}, "num_chains"),
        ({"num_warmup": 41}, "num_warmup"),
        ({"thin": 2}, "thin"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, changed, name):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=f"another {name}"):
        run(tmp_path, **changed)


def test_another_version_is_refused_by_name(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(about, "versions", lambda: {"ppl": "0", "jax": "0"})
    with pytest.raises(CheckpointError, match="version of ppl, version of jax"):
        run(tmp_path)


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        run(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        run(tmp_path / "thesis.tex")


def test_a_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["meta.json"]


def test_training_resumes_bit_for_bit(tmp_path, monkeypatch):
    from ppl import population

    monkeypatch.setattr(population, "ROWS", 16)
    sampler = GaussianVI(num_updates=50)
    options = {"num_samples": 20, "progress": False}
    whole = ppl.sample(sampler, gaussian(2.0), 1, **options)
    save = checkpoint.Checkpoint.save_state
    left = [2]

    def dying(self, state, counters):
        save(self, state, counters)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(checkpoint.Checkpoint, "save_state", dying)
    with pytest.raises(Killed):
        ppl.sample(sampler, gaussian(2.0), 1, checkpoint=tmp_path, **options)
    resumed = ppl.sample(sampler, gaussian(2.0), 1, checkpoint=tmp_path, **options)
    assert np.array_equal(resumed["x"], whole["x"])
    assert np.array_equal(resumed.history["loss"], whole.history["loss"])


# A real kill ----------------------------------------------------------------------------------

PROGRAM = """
import sys
import jax.numpy as jnp, ppl
from samplers.mcmc.random_walk import RandomWalk

def log_density(x, location):
    return -0.5 * jnp.sum((x - location) ** 2)

target = ppl.from_log_density(log_density, jnp.zeros(2), 0.0)
draws = ppl.sample(RandomWalk(), target, 5, num_samples={num_samples}, num_chains=2, num_warmup=200,
                   progress=False, checkpoint=sys.argv[1])
draws.save(sys.argv[2])
"""


def _kill_and_resume(tmp_path: Path, kills: int, num_samples: int, seconds: float) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(num_samples=num_samples))
    command = [sys.executable, str(program)]

    def paths(name):
        return [str(tmp_path / name), str(tmp_path / f"{name}.nc")]

    began = time.monotonic()
    subprocess.run([*command, *paths("whole")], check=True)
    alone = time.monotonic() - began
    moments = stdlib_random.Random(0)
    done = 0
    while done < kills:
        process = subprocess.Popen([*command, *paths("killed")])
        try:
            # Anywhere from the imports to the last chunk, most of them while chunks are written.
            process.wait(timeout=moments.uniform(0.3, 1.0) * min(alone, seconds))
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        done += 1
    subprocess.run([*command, *paths("killed")], check=True)
    whole, killed = (ppl.load(paths(name)[1]) for name in ("whole", "killed"))
    assert np.array_equal(whole["x"], killed["x"])
    assert whole.num_evaluations == killed.num_evaluations


@pytest.mark.slow
def test_a_process_killed_twice_ends_with_the_same_draws(tmp_path):
    _kill_and_resume(tmp_path, kills=2, num_samples=20_000, seconds=6.0)


@pytest.mark.slow
def test_a_process_killed_twenty_times_in_a_row_ends_with_the_same_draws(tmp_path):
    _kill_and_resume(tmp_path, kills=20, num_samples=3_000_000, seconds=20.0)
