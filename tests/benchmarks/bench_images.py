"""Photographs and digits restored under priors that were learned: what each method gives and costs.

    python tests/benchmarks/bench_images.py [crops] [digits] [method ..]

takes scikit-image (``pip install scikit-image``) for the photographs, and writes a line of
``docs/images_restored.csv`` for each method and task as it comes; lines that are there already are
left alone, so that a run which was cut off goes on. The site makes its tables of them. Restored
images go to ``docs/_build/images_restored.npz``; ``bench_images.py picture`` draws some of them,
``bench_images.py derivatives`` prints whether those of the priors are covariances, and
``bench_images.py gradients`` how many of them `STSL` needs.

Truths are images that the priors have not seen: of each photograph a crop of its right quarter
(`docs/train_crops_prior.py` learns from the left of it), and digits of the quarter that
`docs/train_digits_prior.py` holds out. Five tasks, the same operator for all images of one:

- **inpainting**: a quarter of the pixels of a crop, half of those of a digit;
- **deblurring**: a Gaussian of 1.5 pixels, for digits of 1;
- **super-resolution**: means over 4 x 4 pixels;
- **tomography**: sums along the rays of 30 views;
- **resonance**: a quarter of the frequencies of one coil.

All are matrices with a decomposition, filled up with rows of zeros to one shape: every method runs
on every task, in one program for all of them. Grey values go from
-1 to 1. 19 draws for each image: the least and the largest of exact draws hold the truth of a pixel
nine times in ten. ``gaussian`` is no method of a diffusion: its prior is the Gaussian with the mean
and covariance of the images that were learned from, and its draws are exact for that.
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

import ppl
import samplers as s
from bench_inverse import widened
from models.inverse.operators import (
    Downsampling,
    Masking,
    Radon,
    as_matrix,
    cartesian_mask,
    gaussian_blur,
    random_mask,
)
from ppl.diagnostics.crps import crps
from ppl.diagnostics.data_consistency import data_consistency
from ppl.diagnostics.image_quality import psnr
from ppl.diagnostics.interval_coverage import covered
from ppl.sampler import ParticleSampler

DOCS = Path(__file__).parents[2] / "docs"
TABLE, IMAGES = DOCS / "images_restored.csv", DOCS / "_build" / "images_restored.npz"
NUM_DRAWS, LEVEL, RANGE = 19, 0.9, 2.0
END = 10 * RANGE  # draws that go beyond it have diverged

# What is seen -----------------------------------------------------------------------------------


class Resonance:
    """Frequencies of a real image where ``mask`` is true, their real and imaginary parts."""

    def __init__(self, mask: np.ndarray) -> None:
        self.index = np.flatnonzero(mask)
        self.template = jax.ShapeDtypeStruct(mask.shape, jnp.float32)

    def __call__(self, image: Any) -> Any:
        seen = jnp.fft.fft2(image, norm="ortho").reshape(-1)[self.index]
        return jnp.concatenate([seen.real, seen.imag])


def tasks(size: int) -> dict[str, tuple[Callable[[], Any], float]]:
    """Operators on images of this size, made when they are wanted, and the noise of each."""
    shape, key = (size, size), random.key(0)
    small = size < 32
    return {
        "inpainting": (lambda: Masking(random_mask(key, shape, 0.5 if small else 0.25)), 0.1),
        "deblurring": (lambda: gaussian_blur(shape, 1.0 if small else 1.5), 0.05),
        "super-resolution": (lambda: Downsampling(shape, 4), 0.05),
        "tomography": (lambda: Radon(size, 30), 0.25),
        "resonance": (lambda: Resonance(cartesian_mask(key, shape, 4)), 0.1),
    }


# Who restores it --------------------------------------------------------------------------------

# Some fifty calls of the denoiser for a draw of a crop, whose network takes two milliseconds.
CROPS: dict[str, dict[str, Any]] = {
    "PiGDM": {"num_steps": 40},
    "TMPD": {"solver": s.DDPM(), "num_steps": 15, "max_cg_steps": 3, "trusted_below": 0.1},
    "DPS": {"num_steps": 40},
    "DDRM": {"num_steps": 50},
    "DecomposedDiffusion": {"num_steps": 50},
    "DiffPIR": {"num_steps": 50},
    "DAPS": {"num_steps": 15, "num_ode_steps": 4},
    "PnPDM": {"num_steps": 12, "num_inner_steps": 5, "decay": 0.62},
    "REDDiff": {"num_steps": 60},
    "STSL": {"num_steps": 20, "trusted_below": 0.1},
    "MCGDiff": {"num_particles": 32, "num_steps": 50},
    "FPSSMC": {"num_particles": 3, "num_steps": 25},
    "TDS": {"num_particles": 32, "num_steps": 30},
    "Guidance": {"num_steps": 30},
}
# Some hundreds for digits.
DIGITS: dict[str, dict[str, Any]] = {
    "PiGDM": {"num_steps": 200},
    "TMPD": {"solver": s.DDPM(), "num_steps": 50, "max_cg_steps": 5, "trusted_below": 0.1},
    "DPS": {"num_steps": 500},
    "DDRM": {"num_steps": 100},
    "DecomposedDiffusion": {"num_steps": 50},
    "DiffPIR": {"num_steps": 100},
    "DAPS": {"num_steps": 100},
    "PnPDM": {"num_steps": 50, "num_inner_steps": 10},
    "REDDiff": {"num_steps": 500},
    "STSL": {"num_steps": 600, "trusted_below": 0.1},
    "MCGDiff": {"num_particles": 512, "num_steps": 50},
    "FPSSMC": {"num_particles": 20, "num_steps": 50},
    "TDS": {"num_particles": 256, "num_steps": 50},
    "Guidance": {"num_steps": 100},
}


class Gaussian(NamedTuple):
    """The posterior of a Gaussian prior, of images like those that were learned from."""

    mean: np.ndarray
    covariance: np.ndarray

    def draw(self, likelihood: Any, seed: int) -> np.ndarray:
        shape = self.mean.shape
        row = lambda x: np.asarray(likelihood.forward(jnp.asarray(x.reshape(shape)))).reshape(-1)
        matrix = np.stack([row(x) for x in np.eye(self.mean.size, dtype=np.float32)], axis=1)
        noise = float(likelihood.noise_std)
        cross = self.covariance @ matrix.T
        gain = np.linalg.solve(matrix @ cross + noise**2 * np.eye(len(matrix)), cross.T).T
        rng = np.random.default_rng(seed)
        x = rng.multivariate_normal(self.mean.ravel(), self.covariance, NUM_DRAWS, method="eigh")
        y = np.asarray(likelihood.observation).reshape(-1)
        seen = x @ matrix.T + noise * rng.normal(size=(NUM_DRAWS, len(y)))
        return (x + (y - seen) @ gain.T).reshape(NUM_DRAWS, *shape)


class Prior(NamedTuple):
    """A prior that was learned, images it has not seen, and what it is asked to do."""

    prior: Any
    truths: np.ndarray
    gaussian: Gaussian
    settings: dict[str, dict[str, Any]]


def crops() -> Prior:
    """Photographs: a crop of the held-out part of each of some of them."""
    sys.path.insert(0, str(DOCS))
    from train_crops_prior import PHOTOGRAPHS
    from train_crops_prior import crops as drawn

    learned, others = drawn(9000, held_out=False, seed=0), drawn(495, held_out=True, seed=1)
    pictures = ("astronaut", "camera", "coffee", "gravel")
    truths = others[[PHOTOGRAPHS.index(name) for name in pictures]]
    return Prior(s.crops_prior(), truths, gaussian(learned), CROPS)


def digits() -> Prior:
    """The first of the digits that are held out."""
    sys.path.insert(0, str(DOCS))
    from train_digits_prior import digits as split

    (learned, _), (others, _) = split()
    return Prior(s.digits_prior(), others[:10].astype(np.float32), gaussian(learned), DIGITS)


def gaussian(images: np.ndarray) -> Gaussian:
    """That with the mean and covariance of images."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    covariance = np.cov(rows.T)
    return Gaussian(images.mean(0, dtype=np.float64), covariance + 1e-4 * np.eye(len(covariance)))


# What comes out ---------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the file; ``_se``: over the images."""

    prior: str
    task: str
    method: str
    draws: str  # exact for the prior, or what the method says of itself
    images: int
    psnr: float  # of the mean, in decibels
    psnr_se: float
    one_psnr: float  # of single draws
    coverage: float
    coverage_se: float
    residual: float
    crps: float
    calls: float
    seconds: float


FIGURES = Row._fields[5:12]


def restored(sampler: Any, problems: list[Any]) -> tuple[np.ndarray, float]:
    """Draws (problem, draw, ...), and the calls of one draw."""
    draws, calls = [], 0
    together = isinstance(sampler, ParticleSampler)  # a cloud of particles
    size = {} if together else {"num_samples": NUM_DRAWS}
    for i, problem in enumerate(problems):
        try:
            run = ppl.sample(sampler, problem, rng_key=i, progress=False, **size)
        except ppl.TargetError as error:  # a cloud without any weight, which is no result
            print(error, file=sys.stderr)
            draws.append(np.full((NUM_DRAWS, *problem.template.shape), np.nan, np.float32))
            continue
        draws.append((run.resample(i, NUM_DRAWS) if together else run)["x"][0])
        calls += run.num_evaluations[1]
    return np.stack(draws), calls / NUM_DRAWS / len(problems)


def judged(draws: np.ndarray, truths: np.ndarray, likelihoods: list[Any]) -> dict[str, float]:
    """Figures of a method on the images of a task, means over them."""
    found = []
    for x, truth, likelihood in zip(draws, truths, likelihoods, strict=True):
        x = x.astype(np.float64)
        found.append(
            (
                psnr(x.mean(0), truth, data_range=RANGE),
                np.mean([psnr(one, truth, data_range=RANGE) for one in x]),
                covered(x, truth, LEVEL).mean(),
                data_consistency(likelihood, x.astype(np.float32)).mean(),
                crps(x, truth).mean(),
            )
        )
    means = np.mean(found, axis=0)
    errors = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    names = ("psnr", "one_psnr", "coverage", "residual", "crps")
    return dict(zip(names, means, strict=True)) | {
        "psnr_se": errors[0],
        "coverage_se": errors[2],
    }


def seen(truths: np.ndarray, task: str) -> list[Any]:
    """The likelihood of each image of a task."""
    make, noise = tasks(truths.shape[1])[task]
    operator = as_matrix(make())
    empty = ppl.LinearGaussian(operator, operator(jnp.asarray(truths[0])), noise)
    return [empty.observe(random.key(i), jnp.asarray(x)) for i, x in enumerate(truths)]


def measured(
    name: str, case: Prior, method: str, likelihoods: dict[str, list[Any]]
) -> Iterator[tuple[Row, np.ndarray]]:
    """A row of each task, and the mean and first draw of some images. One program for all."""
    every = [one for ones in likelihoods.values() for one in ones]
    began = time.perf_counter()
    if method == "gaussian":
        draws = np.stack([case.gaussian.draw(one, i) for i, one in enumerate(every)])
        calls, says = 0.0, "exact for its own"
    else:
        kind, rows = getattr(s, method), max(one.num_observed for one in every)
        together = {"batch_size": NUM_DRAWS} if hasattr(kind, "batch_size") else {}
        problems = [ppl.posterior(case.prior, widened(one, rows)) for one in every]
        draws, calls = restored(kind(**case.settings[method], **together), problems)
        says = kind.exactness
    seconds = (time.perf_counter() - began) / len(likelihoods)
    for (task, ones), x in zip(likelihoods.items(), np.split(draws, len(likelihoods)), strict=True):
        if np.abs(x).max() < END:
            figures = judged(x, case.truths, ones)
        else:  # it diverges, NaN as well
            figures = dict.fromkeys(FIGURES, float("nan"))
        yield (
            Row(name, task, method, says, len(x), **figures, calls=calls, seconds=seconds),
            np.stack([x[:3].mean(1), x[:3, 0]]).clip(-END, END).astype(np.float16),
        )


# Files ------------------------------------------------------------------------------------------


def known() -> set[tuple[str, ...]]:
    """Rows that are there."""
    if not TABLE.exists():
        return set()
    with TABLE.open() as file:
        return {(row["prior"], row["task"], row["method"]) for row in csv.DictReader(file)}


def keep(row: Row, images: np.ndarray) -> None:
    """Write a row, and its images."""
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(Row._fields)
        writer.writerow(f"{x:.4g}" if isinstance(x, float) else x for x in row)
    IMAGES.parent.mkdir(exist_ok=True)
    others = dict(np.load(IMAGES)) if IMAGES.exists() else {}
    np.savez_compressed(IMAGES, **others, **{"/".join(row[:3]): images})


def main(*chosen: str) -> None:
    """All rows that are asked for and are not there."""
    there = known()
    for name, make in {"digits": digits, "crops": crops}.items():
        if name not in chosen and {"digits", "crops"} & set(chosen):
            continue
        case = make()
        methods = ["gaussian", *case.settings]
        likelihoods = {task: seen(case.truths, task) for task in tasks(case.truths.shape[1])}
        for method in [m for m in methods if m in chosen] or methods:
            if all((name, task, method) in there for task in likelihoods):
                continue
            for row, images in measured(name, case, method, likelihoods):
                keep(row, images)
                print(*(f"{x:.3g}" if isinstance(x, float) else x for x in row), flush=True)
            jax.clear_caches()


def picture(path: Path = DOCS / "images_restored.png") -> None:
    """One image in each task: truth above its data, and each method's mean above a draw."""
    import matplotlib.pyplot as plt

    kept, case = np.load(IMAGES), crops()
    every = [*tasks(case.truths.shape[1])]
    methods = [m for m in ["gaussian", *case.settings] if f"crops/{every[-1]}/{m}" in kept]
    figure, axes = plt.subplots(
        2 * len(every), 1 + len(methods), figsize=(1 + len(methods), 2 * len(every)),
        gridspec_kw={"wspace": 0.03, "hspace": 0.03},
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_axis_off()
    show = lambda axis, image: axis.imshow(image, cmap="gray", vmin=-1, vmax=1)
    for axis, title in zip(axes[0], ["truth, data", *methods], strict=True):
        axis.set_title(title.replace("Diffusion", "\nDiffusion"), fontsize=8)
    for (above, below), task in zip(axes.reshape(-1, 2, 1 + len(methods)), every, strict=True):
        show(above[0], case.truths[0])
        above[0].text(-4, 32, task, rotation=90, ha="right", va="center", fontsize=8)
        likelihood = seen(case.truths[:1], task)[0]
        below[0].imshow(np.asarray(likelihood.adjoint(likelihood.observation)), cmap="gray")
        for j, method in enumerate(methods, 1):
            mean, draw = kept[f"crops/{task}/{method}"][:, 0].astype(np.float32)
            show(above[j], mean)
            show(below[j], draw)
    figure.savefig(path, dpi=80, bbox_inches="tight")


def derivative(prior: Any, z: Any, kappa: float) -> np.ndarray:
    """``kappa^2 dD / dz`` at a noisy image, a row for each pixel."""
    level = jax.tree.map(jnp.float32, prior.path.level(prior.path.time(-np.log(kappa))))
    pull = jax.vjp(lambda z: prior.denoised(level.alpha * z, level), z)[1]
    basis = jnp.eye(z.size, dtype=z.dtype).reshape(-1, *z.shape)
    rows = jax.lax.map(lambda e: pull(e)[0], basis, batch_size=64)
    return kappa**2 * np.asarray(rows).reshape(z.size, -1)


def derivatives(levels: tuple[float, ...] = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)) -> None:
    """Whether those of the priors are covariances: symmetric, and without negative eigenvalues."""
    for name, make in {"digits": digits, "crops": crops}.items():
        case = make()
        truth = jnp.asarray(case.truths[0])
        eps = random.normal(random.key(0), truth.shape)
        for kappa in levels:
            found = derivative(case.prior, truth - case.prior.center + kappa * eps, kappa)
            values = np.linalg.eigvalsh((found + found.T) / 2)
            skew = np.linalg.norm(found - found.T) / np.linalg.norm(found) / 2
            print(f"{name}, {kappa}: {values[0]:.4f} to {values[-1]:.4f}, skew {skew:.0%}")


def gradients(num_levels: int = 40) -> None:
    """Gradients with which `STSL` would be stable, if the prior were Gaussian: gains below 2."""
    for name, make in {"digits": digits, "crops": crops}.items():
        case = make()
        variances, axes = np.linalg.eigh(case.gaussian.covariance)
        for task in tasks(case.truths.shape[1]):
            likelihood = seen(case.truths[:1], task)[0]
            sampler = s.STSL(**case.settings["STSL"])
            steps = sampler.resolve(ppl.posterior(case.prior, likelihood)).steps
            operator: Any = likelihood.operator
            a = np.asarray(operator.matrix, np.float64) @ axes / float(likelihood.noise_std)
            gains = []
            every = slice(None, None, max(1, sampler.num_steps // num_levels))
            for kappa, after in zip(steps.start.kappa[every], steps.end.kappa[every], strict=True):
                product = a * (variances / (variances + kappa**2))  # A J along the axes
                largest = np.linalg.eigvalsh(product @ product.T)[-1]
                gains.append((kappa**2 - after**2) * largest)
            print(f"{name}, {task}: {max(gains) / 2 * sampler.num_steps:,.0f}", flush=True)


if __name__ == "__main__":
    others = {"picture": picture, "derivatives": derivatives, "gradients": gradients}
    if len(sys.argv) == 2 and sys.argv[1] in others:
        others[sys.argv[1]]()
    else:
        main(*sys.argv[1:])
