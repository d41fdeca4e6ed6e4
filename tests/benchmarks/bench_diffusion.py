"""What the engine costs beside the denoiser: 20 steps of 4,096 points in the plane, D = 0.

Run by hand: ``python tests/benchmarks/bench_diffusion.py``. It prints microseconds a step, the best
of many runs, and beside each the cost of a denoiser in closed form. ``diffusers`` has schedulers of
the same names; its figures, on the machine where these were first measured, were 200 to 1,800
microseconds a step.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import samplers as s
from models.targets.gaussian_mixture import GaussianMixture
from samplers.diffusion.integrate import integrate

SOLVERS = {
    "DDIM": s.DDIM(), "DPMSolverPP": s.DPMSolverPP(), "DEIS": s.DEIS(), "UniPC": s.UniPC(),
    "DDPM": s.DDPM(), "SASolver": s.SASolver(), "DPMSolverPP, SDE": s.DPMSolverPP(tau=1.0),
    "Heun": s.Heun(),
}  # fmt: skip


def best(run, *args, repeats=200):
    """Shortest of many runs, in seconds: what others do on the machine only adds."""
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - began)
    return min(times)


def engine():
    """Microseconds a step of each solver with nothing to denoise."""
    x = random.normal(random.key(0), (4096, 2))
    run = jax.jit(lambda x, rows: integrate(random.key(1), lambda x, _: 0 * x, x, rows)[0].x)
    for name, solver in SOLVERS.items():
        rows = jax.tree.map(jnp.asarray, solver.table(s.EDM(), s.EDMSchedule(), 20).rows)
        print(f"{name:20s} {best(run, x, rows) / 20 * 1e6:7.1f} us a step")


def denoiser(num_modes=25, dimension=2):
    """The mixture's denoiser against the softmax over all differences."""
    rng = np.random.default_rng(0)
    target = GaussianMixture(rng.normal(size=(num_modes, dimension)), 0.3)

    def plain(x, sigma):
        variance = target.sds**2 + sigma**2
        offsets = x[:, None] - target.means
        logits = target.log_shares - dimension / 2 * jnp.log(variance)
        logits = logits - jnp.sum(offsets**2, -1) / (2 * variance)
        parts = target.means + (target.sds**2 / variance)[:, None] * offsets
        return jnp.sum(jax.nn.softmax(logits)[..., None] * parts, axis=1)

    x = random.normal(random.key(0), (4096, dimension))
    ours = jax.jit(jax.vmap(target.denoise, (0, None)))
    times = best(ours, x, 0.5), best(jax.jit(plain), x, 0.5)
    print(f"mixture of {num_modes} in {dimension}-d: {times[0] * 1e6:.0f} us, plain softmax "
          f"{times[1] * 1e6:.0f} us, ratio {times[0] / times[1]:.2f}")  # fmt: skip


if __name__ == "__main__":
    engine()
    for num_modes, dimension in ((3, 2), (25, 2), (25, 8), (25, 80)):
        denoiser(num_modes, dimension)
