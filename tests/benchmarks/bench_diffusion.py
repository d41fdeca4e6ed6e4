"""What the engine costs beside the denoiser: 20 steps of 4,096 points in the plane, D = 0.

Run by hand: ``python tests/benchmarks/bench_diffusion.py [synchronous]``. It prints microseconds a
step, the best of many runs, beside those of the scheduler of the same name in ``diffusers`` where
that is installed, in turns, on one thread each, or both on the GPU where JAX has one; what a longer
table costs to compile; and the mixture's denoiser against its plain form.

JAX computes on a thread of its own, which takes some 10 to 60 us a call to wake and to wait for:
more than some solvers compute. Hence three figures: ten calls that are all waited for at the end,
which is what a step costs; calls that are waited for one by one; and of these the first at each
turn, which finds the caches full of what the peer has left. ``synchronous`` makes JAX compute on
the thread that calls, and prints the figures of the solvers alone.
"""

import importlib.util
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

import samplers as s
from models.targets.gaussian_mixture import GaussianMixture
from samplers.diffusion.integrate import integrate

STEPS, CALLS = 20, 10
# Ours, and the scheduler's name and options in diffusers.
SOLVERS = {
    "DDIM": (s.DDIM(), "DDIMScheduler", {}),
    "DPMSolver": (
        s.DPMSolver(2), "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "DPMSolverPP": (s.DPMSolverPP(), "DPMSolverMultistepScheduler", {}),
    "EDM, DPMSolverPP": (s.DPMSolverPP(), "EDMDPMSolverMultistepScheduler", {}),
    "DEIS": (s.DEIS(2), "DEISMultistepScheduler", {}),
    "IPNDM": (s.IPNDM(), "IPNDMScheduler", {}),
    "UniPC": (s.UniPC(2), "UniPCMultistepScheduler", {}),
    "Heun": (s.Heun(), "HeunDiscreteScheduler", {}),
    "DPM2": (s.DPM2(), "KDPM2DiscreteScheduler", {}),
    "DDPM": (s.DDPM(), "DDPMScheduler", {}),
    "DDPM, Euler ancestral": (s.DDPM(), "EulerAncestralDiscreteScheduler", {}),
    "DPMSolverPP, SDE": (
        s.DPMSolverPP(tau=1.0), "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++"},
    ),
    "SASolver": (s.SASolver(2, 2), "SASolverScheduler", {"predictor_order": 2}),
}  # fmt: skip


def best(*runs, repeats=150):
    """Shortest of many calls of each, in turns, in seconds: others on the machine only add.

    Three in a row at each turn; the shortest of the first ones alone comes second. A run may be a
    pair, of which the first half is not timed.
    """
    pairs = [run if isinstance(run, tuple) else (lambda: None, run) for run in runs]
    times = np.full((repeats + 1, len(runs), 3), np.inf)
    for i in range(repeats + 1):
        for j, (prepare, run) in enumerate(pairs):
            for k in range(3):
                prepare()
                began = time.perf_counter()
                run()
                times[i, j, k] = time.perf_counter() - began
    times = times[1:].min(axis=0)  # the first compiles
    return times.min(axis=1), times[:, 0]


def scheduler(name, options):
    """A run of a diffusers scheduler: its own loop, with a network that returns zeros."""
    import diffusers
    import torch

    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    made = getattr(diffusers, name)(**options)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    start, zeros = torch.randn(4096, 2, device=device), torch.zeros(4096, 2, device=device)

    def run():
        x = start * getattr(made, "init_noise_sigma", 1.0)
        with torch.no_grad():
            for t in made.timesteps:
                x = made.step(zeros, t, x).prev_sample
        if device == "cuda":
            torch.cuda.synchronize()
        return x

    return lambda: made.set_timesteps(STEPS, device=device), run


def engine():
    """Microseconds a step of each solver with nothing to denoise."""
    x = random.normal(random.key(0), (4096, 2))
    run = jax.jit(lambda x, rows: integrate(random.key(1), lambda x, _: 0 * x, x, rows)[0].x)
    least = jax.jit(lambda x, s: lax.scan(lambda x, s: (s * x, None), x, s)[0])
    ones = jnp.ones(STEPS)
    floor, _ = best(lambda: jax.block_until_ready(least(x, ones)))
    print(f"a scan that scales the points {floor[0] / STEPS * 1e6:7.1f} us a step")
    peers = importlib.util.find_spec("diffusers") is not None
    for name, (solver, peer, options) in SOLVERS.items():
        rows = jax.tree.map(jnp.asarray, solver.table(s.EDM(), s.EDMSchedule(), STEPS).rows)
        one = lambda rows=rows: jax.block_until_ready(run(x, rows))
        many = lambda rows=rows: jax.block_until_ready([run(x, rows) for _ in range(CALLS)])
        runs = (many, scheduler(peer, options), one) if peers else (many, one)
        times, cold = (t / STEPS * 1e6 for t in best(*runs, repeats=30 if peers else 150))
        line = f"{name:22s} {times[0] / CALLS:7.1f} us a step, waited for {times[-1]:.1f}"
        if peers:
            line += f", {peer} {times[1]:.1f}: ratio {times[0] / CALLS / times[1]:.3f}, "
            line += f"waited for {times[2] / times[1]:.3f}, in turn {cold[2] / cold[1]:.3f}"
        print(line)


def longer():
    """Seconds to compile the first table, and one of another length."""
    x = random.normal(random.key(0), (4096, 2))
    run = jax.jit(lambda x, rows: integrate(random.key(1), lambda x, _: 0 * x, x, rows)[0].x)
    seconds = []
    for steps in (20, 20, 35, 50):
        rows = s.SASolver().table(s.EDM(), s.EDMSchedule(), steps).rows
        began = time.perf_counter()
        jax.block_until_ready(run(x, jax.tree.map(jnp.asarray, rows)))
        seconds.append(time.perf_counter() - began)
    print("first call with 20, 20, 35, 50 rows:", *(f"{value:.3f} s" for value in seconds))


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
    plain = jax.jit(plain)
    runs = [lambda f=f: jax.block_until_ready(f(x, 0.5)) for f in (ours, plain)]
    times, _ = best(*runs)
    print(f"mixture of {num_modes} in {dimension}-d: {times[0] * 1e6:.0f} us, plain softmax "
          f"{times[1] * 1e6:.0f} us, ratio {times[0] / times[1]:.2f}")  # fmt: skip


if __name__ == "__main__":
    if "synchronous" in sys.argv:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        sys.exit(engine())
    longer()
    engine()
    for num_modes, dimension in ((3, 2), (25, 2), (25, 8), (25, 80)):
        denoiser(num_modes, dimension)
