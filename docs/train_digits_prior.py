"""Train the prior of digits: ``python docs/train_digits_prior.py OUT.npz``, two minutes on a core.

Three quarters of scikit-learn's digits are learned from; the draws are judged against the quarter
that was held out, with two classifiers of the real digits: how sure these are depends on how long
they were trained, so both stand beside what they say of held-out digits. The weights that
`samplers.digits_prior` loads came of these settings under another key.
"""

import sys
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import ppl
import samplers
from ppl.diagnostics.energy_distance import energy_distance
from samplers.diffusion.pretrained import DIGITS

NUM_HELD_OUT = 449
# Noise on the way takes back what the network does wrong: 0.91 of these draws are digits beyond
# doubt to the first classifier, of deterministic ones 0.87.
SOLVER = samplers.DiffusionSampler(samplers.Heun(churn=20.0), num_steps=50)


def digits():
    """Images in [-1, 1] and labels: those to learn from, and those held out."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    x, y = found.images[order] / 8 - 1, found.target[order]
    return (x[NUM_HELD_OUT:], y[NUM_HELD_OUT:]), (x[:NUM_HELD_OUT], y[:NUM_HELD_OUT])


def nearest(x, rows):
    """Distance of each image to the nearest row."""
    x, rows = (np.reshape(a, (len(a), -1)) for a in (x, rows))
    squares = (x**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * x @ rows.T
    return np.sqrt(np.maximum(squares.min(1), 0))


def judge(draws):
    """Figures of the draws beside those of the held-out digits."""
    (train, labels), (held_out, held_labels) = digits()
    flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1)
    usual = MLPClassifier((128,), random_state=0, max_iter=300)
    longer = MLPClassifier((128,), random_state=0, max_iter=2000, tol=1e-6, n_iter_no_change=50)
    classifiers = [each.fit(flat(train), labels) for each in (usual, longer)]
    sure = lambda x: [np.mean(each.predict_proba(flat(x)).max(1) > 0.9) for each in classifiers]
    every = np.concatenate([labels, held_labels])
    shares = np.bincount(every, minlength=10) / len(every)
    found = np.bincount(classifiers[1].predict(flat(draws)), minlength=10) / len(draws)
    scores = (found - shares) / np.sqrt(shares * (1 - shares) / len(draws))
    both, rng, floor = flat(np.concatenate([train, held_out])), np.random.default_rng(1), []
    for _ in range(20):
        order = rng.permutation(len(both))
        floor.append(energy_distance(both[order[:449]], both[order[449:898]]))
    blocks = [draws[i : i + 449] for i in range(0, len(draws) - 448, 449)]
    distance = np.mean([energy_distance(flat(block), flat(held_out)) for block in blocks])
    return {
        "surer than 0.9": sure(draws),
        "of held-out digits": sure(held_out),
        "largest score of a label": np.abs(scores).max(),
        "energy distance over floor": distance / np.mean(floor),
        "nearest of the data": np.quantile(nearest(draws, train), [0.05, 0.5, 0.95]),
        "that of held-out digits": np.quantile(nearest(held_out, train), [0.05, 0.5, 0.95]),
    }


if __name__ == "__main__":
    (train, _), _ = digits()
    sampler = samplers.DenoisingDiffusion(
        partial(samplers.MLP, **DIGITS),
        num_updates=12_000,
        num_rows=128,
        learning_rate=1e-3,
        ema_decay=0.998,
        solver=SOLVER,
    )
    target = ppl.from_samples(jnp.asarray(train, jnp.float32))
    draws = ppl.sample(sampler, target, num_samples=1024)
    for name, value in judge(np.asarray(draws["x"][0])).items():
        print(f"{name}: {np.round(value, 3)}")
    *weights, mean, sd = jax.tree.leaves(eqx.filter(draws.sampler.prior.denoiser, eqx.is_array))
    np.savez(sys.argv[1], *[np.asarray(w, np.float16) for w in weights], mean, sd)
