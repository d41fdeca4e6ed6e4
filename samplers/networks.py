"""The small networks that learned samplers default to: one point in, one out; the caller vmaps.

    e = silu(W [t, sin(w t), cos(w t)]) + c_k          time and class, w from 1/2 to 32
    MLP     h <- h + B silu(A h + C e)                 a few times, between two linear maps
    U-Net   h <- h + conv(act(conv(act(h)), e))        at halved and again at doubled resolution

Both begin as the function that is zero everywhere, their last map being so: a control that does
nothing, equal logits, the denoiser of Gaussian data (see `samplers.diffusion.training`).

References
----------
.. [1] He, Zhang, Ren and Sun, "Identity mappings in deep residual networks", ECCV 2016,
   arXiv:1603.05027.
.. [2] Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020,
   arXiv:2006.11239. Appendix B: the U-Net with time.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, PRNGKeyArray

NUM_FREQUENCIES = 16


def checked(name: str, value: Any, minimum: int) -> int:
    """A size of a network, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer, at least {minimum}; got {value!r}")
    return value


def require_point(network: Any, x: Any) -> None:
    """Raise where x is no single point of the network; shapes are known while it is traced."""
    if jnp.shape(x) != network.shape:
        batched = jnp.shape(x)[1:] == network.shape
        raise ValueError(
            f"this {type(network).__name__} takes one point of shape {network.shape}; got "
            f"{jnp.shape(x)}" + (". Write jax.vmap(network) for a batch" if batched else "")
        )


def zeroed(layer: Any) -> Any:
    """The same layer, its weights and biases zero."""
    return jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, layer)


class Embedding(eqx.Module):
    """What a network is told beside the point: a time, and one of some classes or none.

    A class may be traced; None or -1 is no class.
    """

    linear: eqx.nn.Linear | None
    classes: Float[Array, "class width"] | None

    def __init__(
        self, rng_key: PRNGKeyArray, width: int, *, timed: bool, num_classes: int, dtype: Any
    ) -> None:
        size = 1 + 2 * NUM_FREQUENCIES
        self.linear = eqx.nn.Linear(size, width, key=rng_key, dtype=dtype) if timed else None
        self.classes = jnp.zeros((num_classes, width), dtype) if num_classes else None

    def __call__(self, t: Any, condition: Any) -> Float[Array, " width"] | None:
        parts = []
        if (t is None) != (self.linear is None):
            raise ValueError(
                "this network needs a time, network(x, t)"
                if t is None
                else "this network was made with timed=False, so it takes no time"
            )
        if self.linear is not None:
            w = jnp.geomspace(0.5, 32.0, NUM_FREQUENCIES, dtype=self.linear.weight.dtype)
            t = jnp.asarray(t, w.dtype)
            features = jnp.concatenate([t[None], jnp.sin(w * t), jnp.cos(w * t)])
            parts.append(jax.nn.silu(self.linear(features)))
        if condition is not None and self.classes is None:
            raise ValueError("this network was made without num_classes, so it takes no condition")
        if condition is not None and self.classes is not None:
            chosen = jax.nn.one_hot(condition, len(self.classes), dtype=self.classes.dtype)
            parts.append(chosen @ self.classes)
        return sum(parts[1:], parts[0]) if parts else None


# Vectors --------------------------------------------------------------------------------------


class _Layer(eqx.Module):
    """``h + B silu(A h + C e)``."""

    A: eqx.nn.Linear
    B: eqx.nn.Linear
    C: eqx.nn.Linear

    def __init__(self, rng_key: PRNGKeyArray, width: int, dtype: Any) -> None:
        a, b, c = random.split(rng_key, 3)
        self.A = eqx.nn.Linear(width, width, key=a, dtype=dtype)
        self.B = eqx.nn.Linear(width, width, key=b, dtype=dtype)
        self.C = eqx.nn.Linear(width, width, use_bias=False, key=c, dtype=dtype)

    def __call__(self, h: Array, e: Array | None) -> Array:
        inside = self.A(h) if e is None else self.A(h) + self.C(e)
        return h + self.B(jax.nn.silu(inside))


class MLP(eqx.Module):
    """Residual multilayer perceptron ``network(x, t, condition)`` on arrays of any shape.

    Parameters
    ----------
    rng_key
        Key of the initial values.
    shape
        Of one point.
    out_shape
        Of what comes back; that of the point by default.
    width, depth
        Numbers in a layer, and hidden layers.
    timed
        Whether there is a time.
    num_classes
        Number of classes that a condition may name.
    dtype
        Floating dtype of the weights.

    Raises
    ------
    ValueError
        When called: for a point of another shape, for a time or a class that it was not made for.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    out_shape: tuple[int, ...] = eqx.field(static=True)
    embedding: Embedding
    first: eqx.nn.Linear
    layers: tuple[_Layer, ...]
    last: eqx.nn.Linear

    def __init__(
        self,
        rng_key: PRNGKeyArray,
        shape: tuple[int, ...],
        *,
        out_shape: tuple[int, ...] | None = None,
        width: int = 128,
        depth: int = 3,
        timed: bool = True,
        num_classes: int = 0,
        dtype: Any = None,
    ) -> None:
        dtype = jnp.result_type(float) if dtype is None else dtype
        checked("width", width, 1)
        checked("depth", depth, 1)
        checked("num_classes", num_classes, 0)
        self.shape = tuple(shape)
        self.out_shape = self.shape if out_shape is None else tuple(out_shape)
        first, embedding, last, *layers = random.split(rng_key, 3 + depth)
        self.embedding = Embedding(
            embedding, width, timed=timed, num_classes=num_classes, dtype=dtype
        )
        self.first = eqx.nn.Linear(math.prod(self.shape), width, key=first, dtype=dtype)
        self.layers = tuple(_Layer(key, width, dtype) for key in layers)
        out = math.prod(self.out_shape)
        self.last = zeroed(eqx.nn.Linear(width, out, key=last, dtype=dtype))

    def __call__(self, x: Array, t: Any = None, condition: Any = None) -> Array:
        require_point(self, x)
        e = self.embedding(t, condition)
        h = self.first(x.ravel())
        for layer in self.layers:
            h = layer(h, e)
        return self.last(jax.nn.silu(h)).reshape(self.out_shape)


# Images ---------------------------------------------------------------------------------------


class _Conv(eqx.Module):
    """Convolution of ``size`` by ``size`` pixels, as one product of matrices.

    XLA's own takes fifty times as long on a CPU inside a loop, which is where training runs.
    """

    size: int = eqx.field(static=True)
    weight: Float[Array, "num_out taps"]
    bias: Float[Array, " num_out"]

    def __init__(
        self, rng_key: PRNGKeyArray, num_in: int, num_out: int, size: int, dtype: Any
    ) -> None:
        taps = num_in * size**2
        self.size = size
        self.weight = random.uniform(rng_key, (num_out, taps), dtype, -1, 1) / taps**0.5
        self.bias = jnp.zeros(num_out, dtype)

    def __call__(self, h: Float[Array, "c h w"]) -> Float[Array, "num_out h w"]:
        _, height, width = h.shape
        edge, offsets = self.size // 2, range(self.size)
        h = jnp.pad(h, ((0, 0), (edge, edge), (edge, edge)))
        moved = [h[:, i : i + height, j : j + width] for i in offsets for j in offsets]
        out = self.weight @ jnp.concatenate(moved).reshape(-1, height * width)
        return (out + self.bias[:, None]).reshape(-1, height, width)


def _norm(num_channels: int, dtype: Any) -> eqx.nn.GroupNorm:
    return eqx.nn.GroupNorm(math.gcd(num_channels, 8), num_channels, dtype=dtype)


class _Block(eqx.Module):
    """Two convolutions, scaled and shifted in between by time and class, beside a straight way."""

    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm]
    convs: tuple[Any, Any]
    modulation: eqx.nn.Linear
    straight: Any

    def __init__(
        self, rng_key: PRNGKeyArray, num_in: int, num_out: int, width: int, dtype: Any
    ) -> None:
        a, b, c, d = random.split(rng_key, 4)
        self.norms = (_norm(num_in, dtype), _norm(num_out, dtype))
        second = zeroed(_Conv(b, num_out, num_out, 3, dtype))
        self.convs = (_Conv(a, num_in, num_out, 3, dtype), second)
        self.modulation = eqx.nn.Linear(width, 2 * num_out, key=c, dtype=dtype)
        self.straight = None if num_in == num_out else _Conv(d, num_in, num_out, 1, dtype)

    def __call__(self, h: Array, e: Array | None) -> Array:
        inside = self.norms[1](self.convs[0](jax.nn.silu(self.norms[0](h))))
        if e is not None:
            scale, shift = jnp.split(self.modulation(e)[:, None, None], 2)
            inside = inside * (1 + scale) + shift
        beside = h if self.straight is None else self.straight(h)
        return beside + self.convs[1](jax.nn.silu(inside))


class UNet(eqx.Module):
    """Small U-Net ``network(x, t, condition)`` on images, (height, width) or with channels first.

    Parameters
    ----------
    rng_key
        Key of the initial values.
    shape
        Of one image. Height and width are halved between resolutions, so they are divisible.
    channels
        At each resolution, from the finest.
    patch
        Side of the squares of pixels that are taken as channels of one: with 2, a network of a
        quarter of the cost.
    timed, num_classes, dtype
        As those of `MLP`.

    Raises
    ------
    ValueError
        For a shape that is no image or cannot be halved; when called, as `MLP`.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    embedding: Embedding
    first: Any
    down: tuple[_Block, ...]
    middle: _Block
    up: tuple[_Block, ...]
    norm: eqx.nn.GroupNorm
    last: Any

    def __init__(
        self,
        rng_key: PRNGKeyArray,
        shape: tuple[int, ...],
        *,
        channels: tuple[int, ...] = (32, 64, 64),
        patch: int = 1,
        timed: bool = True,
        num_classes: int = 0,
        dtype: Any = None,
    ) -> None:
        dtype = jnp.result_type(float) if dtype is None else dtype
        self.shape = tuple(shape)
        if not channels:
            raise ValueError("channels must name one resolution at least; got ()")
        for number in channels:
            checked("channels", number, 1)
        checked("num_classes", num_classes, 0)
        self.patch = checked("patch", patch, 1)
        factor = patch * 2 ** (len(channels) - 1)
        if len(self.shape) not in (2, 3) or any(n % factor or n == 0 for n in self.shape[-2:]):
            raise ValueError(
                f"a U-Net of {len(channels)} resolutions takes images (height, width) or "
                f"(channels, height, width) whose sides are divisible by {factor}; got {self.shape}"
            )
        num_in = (self.shape[0] if len(self.shape) == 3 else 1) * patch**2
        width = 4 * channels[0]
        keys = iter(random.split(rng_key, 4 + 2 * len(channels)))
        self.embedding = Embedding(
            next(keys), width, timed=timed, num_classes=num_classes, dtype=dtype
        )
        self.first = _Conv(next(keys), num_in, channels[0], 3, dtype)
        above = (channels[0], *channels[:-1])
        self.down = tuple(
            _Block(next(keys), a, b, width, dtype) for a, b in zip(above, channels, strict=True)
        )
        self.middle = _Block(next(keys), channels[-1], channels[-1], width, dtype)
        # From the coarsest: what comes from below, beside what went down at this resolution.
        below = (channels[-1], *channels[:0:-1])
        self.up = tuple(
            _Block(next(keys), a + b, b, width, dtype)
            for a, b in zip(below, channels[::-1], strict=True)
        )
        self.norm = _norm(channels[0], dtype)
        self.last = zeroed(_Conv(next(keys), channels[0], num_in, 3, dtype))

    def __call__(self, x: Array, t: Any = None, condition: Any = None) -> Array:
        require_point(self, x)
        e = self.embedding(t, condition)
        h = self.first(_squares(x.reshape(-1, *self.shape[-2:]), self.patch))
        kept = []
        for i, block in enumerate(self.down):
            h = block(_halved(h) if i else h, e)
            kept.append(h)
        h = self.middle(h, e)
        for i, block in enumerate(self.up):
            h = block(jnp.concatenate([_doubled(h) if i else h, kept.pop()]), e)
        return _pixels(self.last(jax.nn.silu(self.norm(h))), self.patch).reshape(self.shape)


def _squares(x: Float[Array, "c h w"], p: int) -> Float[Array, "m i j"]:
    """Pixels of squares of p by p as channels."""
    c, height, width = x.shape
    split = x.reshape(c, height // p, p, width // p, p).transpose(0, 2, 4, 1, 3)
    return split.reshape(c * p * p, height // p, width // p)


def _pixels(h: Float[Array, "m i j"], p: int) -> Float[Array, "c h w"]:
    """The same back."""
    channels, height, width = h.shape
    split = h.reshape(channels // p**2, p, p, height, width).transpose(0, 3, 1, 4, 2)
    return split.reshape(-1, height * p, width * p)


def _halved(h: Float[Array, "c h w"]) -> Float[Array, "c h/2 w/2"]:
    """Means of squares of four pixels."""
    c, height, width = h.shape
    return h.reshape(c, height // 2, 2, width // 2, 2).mean((2, 4))


def _doubled(h: Float[Array, "c h w"]) -> Float[Array, "c 2*h 2*w"]:
    """Each pixel four times."""
    return jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
