"""What a user waits for: the import, and the first draw with its compilation."""

import subprocess
import sys

import numpy as np

import paired

FIRST_DRAW = {
    "ours": """
import ppl, jax
from models.programs import eight_schools
from samplers.mcmc.nuts import NUTS
import time; began = time.perf_counter()
target = ppl.from_numpyro(eight_schools.model, **eight_schools.data())
ppl.sample(NUTS(), target, 0, 1, 4, {num_warmup}, progress=False)["theta"]
print(time.perf_counter() - began)
""",
    "NumPyro": """
import numpyro, jax
from numpyro.infer import MCMC, NUTS
from models.programs import eight_schools
import time; began = time.perf_counter()
mcmc = MCMC(NUTS(eight_schools.model), num_warmup={num_warmup}, num_samples=1, num_chains=4,
            chain_method="vectorized", progress_bar=False)
mcmc.run(jax.random.key(0), **eight_schools.data())
jax.block_until_ready(mcmc.get_samples()["theta"])
print(time.perf_counter() - began)
""",
}


def _seconds(program: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def _by_own_clock(program: str):
    """Return a run whose seconds are the program's own: the interpreter's start is not counted."""

    def run(i: int) -> float:
        run.seconds = _seconds(program)
        return run.seconds

    return run


def test_first_draw_with_compilation_is_not_later_than_numpyro_s():
    ours, peer = (
        _by_own_clock(FIRST_DRAW[name].format(num_warmup=200)) for name in ("ours", "NumPyro")
    )
    seconds = {"ours": [], "peer": []}
    for i in range(7):
        order = [("ours", ours), ("peer", peer)]
        for name, run in order if i % 2 else order[::-1]:
            seconds[name].append(run(i))
    ratios = np.log(np.array(seconds["peer"]) / np.array(seconds["ours"]))
    ratio, lower = paired._lower_bound(ratios)
    print(f"\nfirst draw, NUTS, eight schools, 4 chains, 200 warm-up steps, compiled from nothing: "
          f"ours {np.median(seconds['ours']):.2f} s, NumPyro {np.median(seconds['peer']):.2f} s, "
          f"ratio {ratio:.2f}, at least {lower:.2f}")  # fmt: skip
    assert lower >= 0.95


def test_import_is_at_most_1_3_times_numpyro_s():
    def run(module: str) -> float:
        program = (
            f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        )
        return _seconds(program)

    pairs = [(run("ppl, ppl.inference, ppl.program"), run("numpyro")) for _ in range(7)]
    ours, peer = np.median(pairs, axis=0)
    bare = np.median([run("ppl") for _ in range(3)])
    print(f"\nimport of what ppl.sample needs: {ours:.2f} s; bare `import ppl`: {bare:.2f} s; "
          f"import numpyro: {peer:.2f} s; ratio {ours / peer:.2f}")  # fmt: skip
    assert ours <= 1.3 * peer
