"""NUTS against BlackJAX and NumPyro: effective draws per second and per gradient."""

import jax
import numpy as np
import pytest

import paired
import peers
import ppl
from samplers.mcmc.nuts import NUTS

TARGETS = ["eight schools", "breast cancer", "rotated Gaussian"]


def _target(name: str):
    if name in peers.PROGRAMS:
        module = peers.PROGRAMS[name]
        return ppl.from_numpyro(module.model, **module.data())
    return peers.rotated_gaussian()


def _ours(name: str, num_warmup: int = 1000, num_samples: int = 1000):
    def run(i: int):
        draws = ppl.sample(
            NUTS(), _target(name), i, num_samples, peers.CHAINS, num_warmup, progress=False
        )
        run.draws = draws
        return draws.values

    return run


@pytest.mark.parametrize("peer", ["BlackJAX", "NumPyro"])
@pytest.mark.parametrize("name", TARGETS)
def test_smallest_ess_per_second_is_not_below(name, peer):
    """Warm-up and sampling together, after compilation, through the public calls."""
    make = {"BlackJAX": peers.blackjax_nuts, "NumPyro": peers.numpyro_nuts}[peer]
    figures = paired.alternate(
        _ours(name),
        make(name, 1000, 1000),
        work=peers.smallest_ess,
        label=f"NUTS, {name}, smallest bulk-ESS/s against {peer}",
    )
    assert figures.lower >= 0.95


def test_rotated_gaussian_per_gradient():
    """ESS per 1,000 gradients, after warm-up and with warm-up counted; float32, defaults."""
    import blackjax

    adaptations = {
        "diagonal": blackjax.window_adaptation,
        "dense": lambda *a: blackjax.window_adaptation(*a, is_mass_matrix_diagonal=False),
        "low rank": blackjax.window_adaptation_low_rank,
    }
    ours = _ours("rotated Gaussian")
    ours_after, ours_all, errors = [], [], []
    for seed in range(3):
        values = ours(seed)
        draws = ours.draws
        smallest = peers.smallest_ess(values)
        ours_after.append(1e3 * smallest / draws.run.evaluations["sample"][1])
        ours_all.append(1e3 * smallest / draws.num_evaluations[1])
        covariance = np.linalg.inv(np.asarray(peers.rotated_precision(), np.float64))
        # The mean error in units of the sd, along the principal axes.
        scales, axes = np.linalg.eigh(covariance)
        error = np.abs(values["x"].mean((0, 1)) @ axes) / np.sqrt(scales)
        errors.append(error.max())
    print(f"\nours: {np.mean(ours_after):.1f} after warm-up, {np.mean(ours_all):.1f} with it, "
          f"mean error at most {max(errors):.3f} sd")  # fmt: skip
    after, counted = {}, {}
    for name, adaptation in adaptations.items():
        run = peers.blackjax_nuts("rotated Gaussian", 1000, 1000, adaptation)
        smallest = peers.smallest_ess(run(0))
        after[name] = 1e3 * smallest / float(run.steps)
        counted[name] = 1e3 * smallest / float(run.steps + run.warm_steps)
        print(f"BlackJAX {name}: {after[name]:.1f} after warm-up, {counted[name]:.1f} with it")
    assert np.mean(ours_after) >= after["dense"]
    assert np.mean(ours_all) >= 1.5 * max(counted.values())
    assert max(errors) < 0.1


def test_rotated_gaussian_against_nutpie():
    """nutpie's low-rank adaptation, all gradients counted."""
    nutpie = pytest.importorskip("nutpie")
    precision = np.asarray(peers.rotated_precision(), np.float64)

    def make_logp():
        def logp(x):
            product = precision @ x
            return -0.5 * float(x @ product), -product

        return logp

    def expand(*_):
        return lambda x: {"x": np.asarray(x, np.float64)}

    compiled = nutpie.compiled_pyfunc.from_pyfunc(
        peers.DIM, make_logp, expand, [np.dtype(np.float64)], [(peers.DIM,)], ["x"]
    )
    trace = nutpie.sample(
        compiled, draws=1000, tune=1000, chains=4, seed=0, adaptation="low_rank",
        save_warmup=True, progress_bar=False,
    )  # fmt: skip
    x = np.asarray(trace["posterior"]["x"])
    steps = np.asarray(trace["sample_stats"]["n_steps"]).sum()
    warm = np.asarray(trace["warmup_sample_stats"]["n_steps"]).sum()
    smallest = peers.smallest_ess({"x": x})
    run = _ours("rotated Gaussian")
    mine = peers.smallest_ess(run(0))
    counted = 1e3 * mine / run.draws.num_evaluations[1]
    peer = 1e3 * smallest / (steps + warm)
    print(f"\nours {counted:.1f} with warm-up, nutpie low rank {peer:.1f} "
          f"({1e3 * smallest / steps:.1f} after), ratio {counted / peer:.2f}")  # fmt: skip
    assert counted >= 1.5 * peer


def test_jax_compiles_nothing_between_runs():
    """The figures above are free of compilation on our side."""
    from compilations import count_compilations

    run = _ours("eight schools", 200, 200)
    jax.block_until_ready(run(0))
    with count_compilations() as count:
        run(1)
    assert count.compilations == 0
