"""
Steer a diffusion prior
=======================

A prior of handwritten digits draws all of them. Suppose that only some are wanted: those that a
classifier takes for a three, or those of a certain number of dark pixels, a reward that has no
gradient. Steering lets a population run down the reverse chain and favors those that promise the
reward (Singhal et al., 2025; Wu et al., 2023; Li et al., 2024). Which method gets there, at the
cost of the same number of calls of the denoiser?
"""

# %%
# A classifier: multinomial regression, fitted to one half of the digits. A second one, of the other
# half, will judge the draws, for a classifier is easily fooled by images that were made for it.

import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import ppl
import samplers

smoke = os.environ.get("SMOKE") == "1"
images, labels = load_digits(return_X_y=True)
images, labels = jnp.asarray(images / 8 - 1), jnp.asarray(labels)


@jax.jit
def fitted(images, labels):
    def loss(w):
        logits = images @ w[:-1] + w[-1]
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return fit + 1e-3 * jnp.sum(w**2)

    w, rate = jnp.zeros((65, 10)), 0.1
    return jax.lax.fori_loop(0, 500, lambda _, w: w - rate * jax.grad(loss)(w), w)


judge, guide = fitted(images[:1796:2], labels[:1796:2]), fitted(images[1::2], labels[1::2])

# %%
# Two rewards: the log-probability of a three, by one classifier, and one nat off for each dark
# pixel that is more than fourteen, or less. What they count for is data: one program serves both.


def dark_pixels(image):
    return jnp.sum(image > 0)


def reward(image, w, for_three, for_pixels):
    log_probability = jax.nn.log_softmax(image.ravel() @ w[:-1] + w[-1])[3]
    return for_three * log_probability - for_pixels * jnp.abs(dark_pixels(image) - 14.0)


prior = samplers.digits_prior()
threes = ppl.tilt(prior, reward, guide, 1.0, 0.0)
light = ppl.tilt(prior, reward, guide, 0.0, 1.0)
is_three = jax.vmap(lambda image: jnp.argmax(image.ravel() @ judge[:-1] + judge[-1]) == 3)
is_light = jax.vmap(lambda image: jnp.abs(dark_pixels(image) - 14) <= 2)

# %%
# All methods get the calls of 512 plain draws; a gradient through the denoiser counts as one more.
# Best-of-N draws from the prior and keeps the best of every eight. All take the same steps.

steps, n = {"solver": samplers.DDPM(), "num_steps": 8 if smoke else 50}, 32 if smoke else 512
steered = {
    "FK steering": samplers.FKSteering(num_particles=n, **steps),
    "TDS": samplers.TDS(num_particles=n // 2, **steps),
    "guidance": samplers.Guidance(batch_size=n // 2, **steps),
    "SVDD": samplers.SVDD(num_particles=n // 8, num_candidates=8, **steps),
    "nested SVDD": samplers.NestedSVDD(num_particles=n // 4, num_candidates=4, **steps),
}
plain = samplers.DiffusionSampler(**steps)
drawn = ppl.sample(plain, prior, num_samples=n, progress=False)["x"][0]


def kept_of_eight(target):
    rewards = jax.vmap(target.log_likelihood)(jnp.asarray(drawn))
    best = np.argmax(rewards.reshape(-1, 8), axis=1) + 8 * np.arange(n // 8)
    return drawn[best], np.log(np.mean(np.exp(rewards)))


# %%
# Success is judged on draws of equal weight. Diversity is the mean distance of two of them, in
# units of what it is for images of that kind in the data: below one where draws are copies.


def diversity(images):
    x = np.reshape(images, (len(images), -1))
    return np.sqrt(2 * np.sum(np.var(x, axis=0, ddof=1)))


def table(target, wanted):
    of_kind = np.asarray(wanted(images.reshape(-1, 8, 8)))
    natural = diversity(images[of_kind])
    print(f"{'':14}{'success':>8}{'diversity':>11}{'log Z':>8}{'error':>7}")
    shown = {}
    best, simple = kept_of_eight(target)
    rows = {"prior": (drawn, None, None), "best of eight": (best, simple, None)}
    for name, sampler in steered.items():
        if target is light and name not in ("FK steering", "SVDD"):
            continue  # TDS and guidance need a gradient
        options = {"num_samples": n // 2} if name == "guidance" else {}
        draws = ppl.sample(sampler, target, progress=False, **options)
        x = draws["x"][0] if draws.log_weights is None else draws.resample(0, n)["x"][0]
        z = draws.log_evidence
        rows[name] = (x, z and z.value, z and z.std_error)
    for name, (x, z, error) in rows.items():
        found = f"{np.mean(wanted(jnp.asarray(x))):8.2f}{diversity(x) / natural:11.2f}"
        evidence = "" if z is None else f"{z:8.2f}" + ("" if error is None else f"{error:7.2f}")
        print(f"{name:14}" + found + evidence)
        shown[name] = np.asarray(x)
    return shown


print("threes")
pictures = table(threes, is_three)
if not smoke:
    print("fourteen dark pixels")
    table(light, is_light)

# %%
# FK steering, TDS and nested SVDD agree on the evidence within their errors, and with plain draws
# where the reward is not rare. SVDD and guidance succeed as often and have no weights: how far
# their draws are from the tilted prior, they cannot say.

figure, axes = plt.subplots(len(pictures), 12, figsize=(8, 5), layout="constrained")
for line, (name, row) in zip(axes, pictures.items(), strict=True):
    line[0].set_title(name, loc="left", fontsize=8)
    for axis, image in zip(line, row[:: max(1, len(row) // 12)], strict=False):
        axis.imshow(image, cmap="gray_r", vmin=-1.2, vmax=1.2)
    for axis in line:
        axis.set_axis_off()
