"""What steering costs beside the prior: N particles against N plain draws of the same solver.

Run by hand: ``PJRT_NPROC=1 OMP_NUM_THREADS=1 python tests/benchmarks/bench_steering.py``. The prior
is that of the digits, the reward a sum over pixels. Each pair of runs alternates in one process;
what is printed is the median of the ratios of neighbors in processor time, which other programs
disturb less than the clock, compiled programs apart. A ratio of 1.15 is asked of `FKSteering` and
`FKCorrector`; for the others it says what a gradient through the denoiser (once more the denoiser,
so 2), or M candidates (M), cost. Found: 1.06, 1.09, 2.06 and, for M = 4, 4.24.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import ppl
import samplers as s

N, NUM_STEPS, ROUNDS = 1024, 50, 9


def reward(image):
    return -0.01 * jnp.sum(image**2)


def seconds(sampler, target, **options):
    began = time.process_time()
    ppl.sample(sampler, target, progress=False, **options)
    return time.process_time() - began


def main():
    prior = s.digits_prior()
    target = ppl.tilt(prior, reward)
    sizes = {"num_particles": N, "num_steps": NUM_STEPS}
    ancestral = s.DDPM()
    steered = {
        "FKSteering": s.FKSteering(solver=ancestral, **sizes),
        "FKCorrector": s.FKCorrector(solver=ancestral, **sizes),
        "TDS": s.TDS(solver=ancestral, **sizes),
        "SVDD, M = 4": s.SVDD(solver=ancestral, num_candidates=4, **sizes),
    }
    plain = s.DiffusionSampler(ancestral, num_steps=NUM_STEPS)
    baseline = lambda: seconds(plain, prior, num_samples=N)
    print(f"{N} draws in {NUM_STEPS} steps, on {jax.devices()[0].device_kind}")
    for name, sampler in steered.items():
        baseline(), seconds(sampler, target)  # compiles
        ratios = [seconds(sampler, target) / baseline() for _ in range(ROUNDS)]
        quarter, middle, three_quarters = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"{name:12s} {middle:5.2f} ({quarter:.2f} to {three_quarters:.2f})")


if __name__ == "__main__":
    main()
