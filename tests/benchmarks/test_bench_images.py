"""What the benchmark of images asks, and that its judge knows exact draws."""

import numpy as np
import pytest

import bench_images as bench


def field(size, n, seed=0):
    """Smooth random images, whose Gaussian is known."""
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2)
    square = ((grid[:, None] - grid[None]) ** 2).sum(-1)
    covariance = 0.3 * np.exp(-square / 8) + 1e-3 * np.eye(len(grid))
    rows = np.random.default_rng(seed).multivariate_normal(np.zeros(len(grid)), covariance, n)
    return rows.reshape(n, size, size).astype(np.float32), bench.Gaussian(
        np.zeros((size, size)), covariance
    )


@pytest.mark.slow
def test_every_task_has_singular_values():
    truths, _ = field(8, 1)
    seen = {}
    for task in bench.tasks(8):
        (likelihood,) = bench.seen(truths, task)
        assert likelihood.svd is not None
        seen[task] = likelihood.num_observed
    # 240 sums along rays; a quarter of 64 frequencies, two numbers each.
    assert seen == {
        "inpainting": 32, "deblurring": 64, "super-resolution": 4, "tomography": 240,
        "resonance": 32,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inpainting", "resonance"])
def test_exact_draws_of_a_gaussian_are_judged_right_and_narrow_ones_wrong(task):
    truths, gaussian = field(8, 20)
    seen = bench.seen(truths, task)
    draws = np.stack([gaussian.draw(one, i) for i, one in enumerate(seen)])
    found = bench.judged(draws, truths, seen)
    assert abs(found["coverage"] - 0.9) < 4.9 * found["coverage_se"]
    assert found["residual"] == pytest.approx(1, abs=0.1)
    assert found["psnr"] > found["one_psnr"] + 2
    means = draws.mean(1, keepdims=True)
    narrow = bench.judged(means + 0.6 * (draws - means), truths, seen)
    assert narrow["coverage"] < 0.9 - 4.9 * narrow["coverage_se"]


def test_held_out_photographs_are_no_part_of_what_was_learned_from(monkeypatch):
    monkeypatch.syspath_prepend(bench.DOCS)
    import train_crops_prior as script

    # Every pixel says where it comes from.
    image = np.arange(200)[None] + 1000.0 * np.arange(80)[:, None]
    monkeypatch.setattr(script, "photographs", lambda: iter([image]))
    learned, held_out = (script.crops(50, held_out=h, seed=0) % 1000 for h in (False, True))
    assert learned.max() < 150 <= held_out.min()
