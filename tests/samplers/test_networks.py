"""Networks keep shapes and dtypes, see what they are told, and refuse what does not fit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

import samplers
from samplers.networks import _Conv, _doubled, _halved, _pixels, _squares

pytestmark = pytest.mark.usefixtures("unoptimized")

KINDS = {
    "vector": lambda **options: samplers.MLP(random.key(0), (3,), width=16, depth=2, **options),
    "number": lambda **options: samplers.MLP(random.key(0), (), width=16, depth=1, **options),
    "8x8": lambda **options: samplers.UNet(random.key(0), (8, 8), channels=(4, 8), **options),
    "squares": lambda **options: samplers.UNet(
        random.key(0), (8, 8), channels=(4, 8), patch=2, **options
    ),
    "3x32x32": lambda **options: samplers.UNet(
        random.key(0), (3, 32, 32), channels=(4, 8, 8, 8), **options
    ),
}


def awake(network):
    """The same without the zeros that it begins with."""
    return jax.tree.map(lambda w: w + 0.1 if eqx.is_array(w) else w, network)


def made(kind, **options):
    return eqx.filter_jit(KINDS[kind])(**options)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_is_like_the_point(kind, double):
    with jax.enable_x64(double):
        for dtype in (None, jnp.float32):
            network = eqx.filter_eval_shape(KINDS[kind], dtype=dtype)
            x = jax.ShapeDtypeStruct(network.shape, network.last.weight.dtype)
            assert x.dtype == (dtype or jnp.result_type(float))
            out = eqx.filter_eval_shape(network, x, 0.3)
            assert (out.shape, out.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("kind", ["vector", "8x8"])
def test_point_time_and_class_matter_once_it_has_left_zero(kind):
    network = made(kind, num_classes=2)
    x = random.normal(random.key(2), network.shape)
    call = eqx.filter_jit(lambda network, x, t, condition: network(x, t, condition))
    assert not call(network, x, 0.3, jnp.array(0)).any()
    network = awake(network)
    classes = lambda network: network.embedding.classes
    network = eqx.tree_at(classes, network, random.normal(random.key(1), classes(network).shape))
    first = call(network, x, 0.3, jnp.array(0))
    for other in ((x, 0.4, 0), (x, 0.3, 1), (jnp.roll(x, 1, -1), 0.3, 0)):
        out = call(network, other[0], other[1], jnp.array(other[2]))
        assert np.abs(out - first).max() > 1e-3
    none = [call(network, x, 0.3, condition) for condition in (jnp.array(-1), None)]
    np.testing.assert_allclose(*none, rtol=1e-5)


def test_a_batch_is_the_points_one_by_one():
    network = awake(made("vector"))
    x, t = random.normal(random.key(0), (5, 3)), jnp.linspace(0, 1, 5)
    call = eqx.filter_jit(network)
    one_by_one = jnp.stack([call(a, b) for a, b in zip(x, t, strict=True)])
    np.testing.assert_allclose(jax.vmap(network)(x, t), one_by_one, rtol=1e-5, atol=1e-5)


def test_squares_of_pixels_are_channels_and_come_back():
    x = random.normal(random.key(0), (2, 6, 4))
    squares = _squares(x, 2)
    for channel, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_array_equal(squares[channel], x[0, i::2, j::2])
    np.testing.assert_array_equal(_pixels(squares, 2), x)


def test_a_network_without_time_may_return_another_shape():
    network = samplers.MLP(random.key(0), (2, 3), out_shape=(), width=4, timed=False)
    assert network(jnp.ones((2, 3))).shape == ()


def test_the_unet_sees_the_whole_image():
    """Every pixel that comes back depends on every pixel that went in: digits hang together."""
    network = awake(made("8x8"))
    x = random.normal(random.key(1), (8, 8))
    pixels = jnp.concatenate([jnp.zeros((1, 64)), jnp.eye(64)]).reshape(65, 8, 8)
    out = jax.jit(jax.vmap(lambda x: network(x, 0.5)))(x + pixels)
    assert (np.abs(out[1:] - out[0]) > 1e-6).all()


@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_is_that_of_jax(size):
    conv = _Conv(random.key(0), 2, 3, size, jnp.float32)
    conv = eqx.tree_at(lambda conv: conv.bias, conv, jnp.arange(3.0))
    x = random.normal(random.key(1), (2, 4, 6))
    weight = conv.weight.reshape(3, size, size, 2).transpose(0, 3, 1, 2)
    expected = jax.lax.conv(x[None], weight, (1, 1), "SAME")[0] + conv.bias[:, None, None]
    np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-5)


def test_halving_a_doubled_image_gives_it_back():
    x = random.normal(random.key(0), (2, 4, 6))
    np.testing.assert_allclose(_halved(_doubled(x)), x, rtol=1e-6)
    np.testing.assert_allclose(_halved(x)[1, 0, 2], x[1, :2, 4:].mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["vector", pytest.param("8x8", marks=pytest.mark.slow)])
def test_a_network_learns_a_function_of_point_and_time(kind):
    """The squared error of a smooth function falls to a twentieth of what zero has."""
    network = made(kind)
    keys = random.split(random.key(1))
    x = random.normal(keys[0], (64, *network.shape))
    t = random.uniform(keys[1], (64,))
    y = jax.vmap(lambda x, t: jnp.sin(2 * x) * (1 + t) - x**2 * t)(x, t)
    optimizer = optax.adam(2e-2)

    def loss(network):
        return jnp.mean((jax.vmap(network)(x, t) - y) ** 2)

    @eqx.filter_jit
    def train(network):
        arrays, rest = eqx.partition(network, eqx.is_array)

        def step(carry, _):
            arrays, moments = carry
            value, gradient = jax.value_and_grad(lambda a: loss(eqx.combine(a, rest)))(arrays)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(arrays, updates), moments), value

        return jax.lax.scan(step, (arrays, optimizer.init(arrays)), length=200)[1]

    losses = train(network)
    np.testing.assert_allclose(losses[0], jnp.mean(y**2), rtol=1e-5)
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KINDS["vector"]()(jnp.ones(4), 0.1), r"one point of shape \(3,\); got \(4,\)"),
        (lambda: KINDS["8x8"]()(jnp.ones((2, 8, 8)), 0.1), r"Write jax.vmap\(network\)"),
        (lambda: KINDS["vector"]()(jnp.ones(3)), r"needs a time, network\(x, t\)"),
        (lambda: KINDS["vector"](timed=False)(jnp.ones(3), 0.1), "made with timed=False"),
        (lambda: KINDS["vector"]()(jnp.ones(3), 0.1, 2), "made without num_classes"),
        (lambda: samplers.MLP(random.key(0), (2,), width=0), "width must be an integer"),
        (lambda: samplers.MLP(random.key(0), (2,), depth=True), "depth must be an integer"),
        (lambda: samplers.UNet(random.key(0), (8,)), r"takes images .* got \(8,\)"),
        (lambda: samplers.UNet(random.key(0), (8, 10)), "divisible by 4"),
        (lambda: samplers.UNet(random.key(0), (8, 12), patch=2), "divisible by 8"),
        (lambda: samplers.UNet(random.key(0), (8, 8), channels=()), "one resolution at least"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
