"""Steps per second of DPS and DiffPIR beside the same updates in PyTorch, on the CPU.

A Gaussian random field of 64 x 64 pixels, a quarter of them seen, with its exact denoiser written
in both libraries: two Fourier transforms. Both sides do the same arithmetic on the same levels, and
the peer's takes its gradients from PyTorch's automatic differentiation; what differs is that ours
is one compiled loop. PyTorch is no dependency: where it is missing the cases are skipped.
"""

import equinox as eqx
import jax
import numpy as np
import pytest
from jax import random

import ppl
import samplers
from models.inverse.gaussian_field import GaussianField
from models.inverse.operators import Masking, random_mask
from paired import alternate

torch = pytest.importorskip(
    "torch", reason="the peer is written in PyTorch: pip install torch, and run again"
)

SIZE, NUM_STEPS, NOISE = 64, 100, 0.1
ASKED = 3.0


def problem():
    """The posterior; and mask, data and spectrum as NumPy arrays."""
    field = GaussianField((SIZE, SIZE))
    mask = random_mask(random.key(0), (SIZE, SIZE), 0.25)
    operator = Masking(mask)
    truth = field.sample(random.key(1), 1)[0]
    likelihood = ppl.LinearGaussian(operator, operator(truth), NOISE)
    likelihood = likelihood.observe(random.key(2), truth)
    prior = samplers.DiffusionPrior(samplers.EDM(), field.denoise, field.template)
    posterior = ppl.posterior(prior, likelihood)
    return posterior, mask, np.asarray(likelihood.observation), np.asarray(field.spectrum)


class Peer:
    """The two methods in PyTorch, batched over chains as ours are."""

    def __init__(self, kappas, mask, observation, spectrum):
        self.kappas = [float(kappa) for kappa in kappas]
        self.mask = torch.from_numpy(mask)
        self.observation = torch.from_numpy(observation.copy())
        self.spectrum = torch.from_numpy(spectrum[:, : SIZE // 2 + 1].copy())

    def denoise(self, z, kappa):
        gain = self.spectrum / (self.spectrum + kappa**2)
        return torch.fft.irfft2(gain * torch.fft.rfft2(z), s=(SIZE, SIZE))

    def start(self, seed, n):
        torch.manual_seed(seed)
        return self.kappas[0] * torch.randn(n, SIZE, SIZE)

    def dps(self, seed, n, zeta=1.0):
        z = self.start(seed, n)
        for kappa, after in zip(self.kappas, [*self.kappas[1:], 0.0], strict=True):
            z = z.requires_grad_()
            denoised = self.denoise(z, kappa)
            residual = self.observation - denoised[:, self.mask]
            (slope,) = torch.autograd.grad(residual.norm(dim=1).sum(), z)
            ratio = (after / kappa) ** 2
            sd = after * (1 - ratio) ** 0.5
            scale = zeta * ((1 + kappa**2) * (1 + after**2)) ** 0.5
            with torch.no_grad():
                z = ratio * z + (1 - ratio) * denoised + sd * torch.randn_like(z) - scale * slope
        return z.numpy()

    def diffpir(self, seed, n, penalty=8.0):
        z = self.start(seed, n)
        with torch.no_grad():
            for kappa, after in zip(self.kappas, [*self.kappas[1:], 0.0], strict=True):
                x = self.denoise(z, kappa)
                spread = kappa**2 / penalty
                gain = spread / (spread + NOISE**2)
                x[:, self.mask] += gain * (self.observation - x[:, self.mask])
                z = x + after * torch.randn_like(x)
        return z.numpy()


CASES = {
    "DPS": lambda n: samplers.DPS(num_steps=NUM_STEPS, batch_size=n),
    "DiffPIR": lambda n: samplers.DiffPIR(num_steps=NUM_STEPS, batch_size=n),
}


@pytest.mark.parametrize("num_chains", [1, 16])
@pytest.mark.parametrize("name", CASES)
def test_steps_per_second(name, num_chains):
    """Three times the peer's, and the draws as near to the data as the peer's."""
    posterior, mask, observation, spectrum = problem()
    sampler = CASES[name](num_chains).resolve(posterior)
    grid = sampler.table.grid
    peer = Peer(grid.kappa[:-1], mask, observation, spectrum)
    other = {"DPS": peer.dps, "DiffPIR": peer.diffpir}[name]
    draw = eqx.filter_jit(lambda sampler, target, key: sampler.draw(key, target, num_chains)[0])

    with jax.default_device(jax.devices("cpu")[0]):
        figures = alternate(
            lambda i: draw(sampler, posterior, random.key(i)),
            lambda i: other(i, num_chains),
            work=lambda _: NUM_STEPS,
            label=f"{name}, {num_chains} chains of 64 x 64, steps per second",
        )
        # The same method: pixels that are seen are as near to the data on both sides.
        ours = np.asarray(draw(sampler, posterior, random.key(0)), np.float64)
    theirs = np.asarray(other(0, num_chains), np.float64)
    gaps = [np.sqrt(np.mean((x[:, mask] - observation) ** 2)) for x in (ours, theirs)]
    assert gaps[0] == pytest.approx(gaps[1], rel=0.2)
    assert figures.ratio >= ASKED


# The library ----------------------------------------------------------------------------------


def of_deepinv(name, mask, observation, spectrum):
    """``(seed, n) -> draws`` by deepinv, with the same denoiser, mask and number of steps."""
    dinv = pytest.importorskip("deepinv", reason="the peer is deepinv: pip install deepinv")
    half = torch.from_numpy(spectrum[:, : SIZE // 2 + 1].copy())

    class Field(dinv.models.Denoiser):
        def forward(self, x, sigma, **_):
            kappa = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
            gain = half / (half + kappa**2)
            return torch.fft.irfft2(gain * torch.fft.rfft2(x), s=(SIZE, SIZE))

    seen = torch.from_numpy(mask)[None, None]
    physics = dinv.physics.Inpainting(
        img_size=(1, SIZE, SIZE), mask=seen.float(), noise_model=dinv.physics.GaussianNoise(NOISE)
    )
    y = torch.zeros(1, 1, SIZE, SIZE)
    y[seen] = torch.from_numpy(observation.copy())
    if name == "DPS":
        sampler = dinv.sampling.DPS(
            Field(), num_steps=NUM_STEPS, dtype=torch.float32, rng=torch.Generator()
        )
    else:
        l2 = dinv.optim.data_fidelity.L2()
        sampler = dinv.sampling.DiffPIR(Field(), l2, sigma=NOISE, max_iter=NUM_STEPS)
    return lambda seed, n: sampler(y.expand(n, -1, -1, -1), physics, seed=seed).numpy()


@pytest.mark.parametrize("num_chains", [1, 16])
@pytest.mark.parametrize("name", CASES)
def test_steps_per_second_of_deepinv(name, num_chains):
    """Three times those of the library itself, whose schedules and clipping are its own."""
    posterior, mask, observation, spectrum = problem()
    sampler = CASES[name](num_chains).resolve(posterior)
    other = of_deepinv(name, mask, observation, spectrum)
    draw = eqx.filter_jit(lambda sampler, target, key: sampler.draw(key, target, num_chains)[0])
    with jax.default_device(jax.devices("cpu")[0]):
        figures = alternate(
            lambda i: draw(sampler, posterior, random.key(i)),
            lambda i: other(i + 1, num_chains),
            work=lambda _: NUM_STEPS,
            label=f"{name}, {num_chains} chains of 64 x 64, steps per second, and deepinv",
        )
    assert other(1, num_chains).shape == (num_chains, 1, SIZE, SIZE)
    assert figures.ratio >= ASKED
