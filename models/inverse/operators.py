"""Linear operators of imaging: what is seen of an image.

Each is a module that is called with one image; its numbers are traced, its shapes static. Those
with a cheap decomposition ``A = U diag(s) V^H`` are their own `ppl.linear_operators.SVD`:

==================  =================================  =========================================
`Masking`           some of the pixels                 pixels; s = 0 or 1
`Blur`              periodic convolution               Hartley's transform; s = abs(transfer)
`Downsampling`      means over blocks                  a reflection of each block; s = 1 / factor
`FourierSampling`   some of the frequencies            Fourier's transform; s = 0 or 1
`MultiCoil`         the same, through several coils    none: conjugate gradients
`Radon`             sums along rays                    none, or `dense_radon` for small images
==================  =================================  =========================================

Hartley's transform ``H x = Re F x - Im F x`` is real, orthonormal and its own inverse. It
diagonalizes a real convolution whose transfer function is real and even; any other is such a one
after a convolution that only turns phases:

    A = P C,   C = H |transfer| H,   P = F^-1 (transfer / |transfer|) F,   U = P H,   V = H
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, ArrayLike, Complex, Float, Int, PRNGKeyArray

from ppl.linear_operators import Dense, dense


def _image(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(float))


class Chosen(eqx.Module):
    """Some entries of an array: taken out as a vector, and put back among zeros.

    They are put back by looking up, for every entry of the array, which of the vector is its: a
    scatter takes several times as long on a CPU.
    """

    indices: Int[Array, " k"]
    places: Int[Array, "..."]

    def __init__(self, mask: ArrayLike) -> None:
        chosen = np.asarray(mask)
        if chosen.dtype != bool or not chosen.any():
            raise ValueError(
                "a mask is an array of bools, true where something is observed, and at least once; "
                f"got {chosen.dtype.name}{list(chosen.shape)} with the sum {chosen.sum()}"
            )
        order = np.cumsum(chosen.reshape(-1)).reshape(chosen.shape) - 1
        self.indices = jnp.asarray(np.flatnonzero(chosen), jnp.int32)
        self.places = jnp.asarray(np.where(chosen, order, chosen.sum()), jnp.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.places.shape

    def taken(self, array: Array) -> Array:
        return array.reshape(-1)[self.indices]

    def put(self, values: Array) -> Array:
        return jnp.take(values, self.places, mode="fill", fill_value=0)


class Masking(eqx.Module):
    """The pixels where ``mask`` is true, as a vector in the order of ``reshape(-1)``."""

    chosen: Chosen
    template: jax.ShapeDtypeStruct

    def __init__(self, mask: ArrayLike) -> None:
        self.chosen = Chosen(mask)
        self.template = _image(self.chosen.shape)

    def __call__(self, image: Array) -> Array:
        return self.chosen.taken(image)

    def picture(self, observation: Array) -> Array:
        """The observation as an image, black where nothing is seen."""
        return self.chosen.put(observation)

    def adjoint(self, observation: Array) -> Array:
        return self.picture(observation)

    @property
    def singular_values(self) -> Array:
        return self.picture(jnp.ones(len(self.chosen.indices)))

    def v(self, coefficients: Array) -> Array:
        return coefficients

    def v_adjoint(self, position: Array) -> Array:
        return position

    def u(self, coefficients: Array) -> Array:
        return self(coefficients)

    def u_adjoint(self, observation: Array) -> Array:
        return self.picture(observation)


def random_mask(rng_key: PRNGKeyArray, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Mask of pixels at random, of which exactly this share is observed, up to rounding."""
    size = math.prod(shape)
    chosen = np.zeros(size, bool)
    chosen[np.asarray(random.permutation(rng_key, size))[: round(share * size)]] = True
    return chosen.reshape(shape)


class Blur(eqx.Module):
    """Periodic convolution with a kernel of any number of axes."""

    transfer: Complex[Array, "..."]
    template: jax.ShapeDtypeStruct

    def __init__(self, kernel: ArrayLike) -> None:
        """Take a kernel as large as the image, centered at its first entry."""
        values = np.asarray(kernel, np.float64)
        self.template = _image(values.shape)
        complex_dtype = jnp.result_type(self.template.dtype, jnp.complex64)
        self.transfer = jnp.asarray(np.fft.fftn(values), complex_dtype)

    def __call__(self, image: Array) -> Array:
        if jnp.iscomplexobj(image):
            return jnp.fft.ifftn(self.transfer * jnp.fft.fftn(image)).astype(image.dtype)
        return _convolved(image, self.transfer)

    def adjoint(self, observation: Array) -> Array:
        return eqx.tree_at(lambda blur: blur.transfer, self, self.transfer.conj())(observation)

    @property
    def singular_values(self) -> Array:
        # Sums of float32 that should be zero are not quite: such a mode is as good as unseen.
        size = jnp.abs(self.transfer)
        return jnp.where(size > 1e-6 * jnp.max(size), size, 0.0)

    def v(self, coefficients: Array) -> Array:
        return _hartley(coefficients)

    def v_adjoint(self, position: Array) -> Array:
        return _hartley(position)

    def u(self, coefficients: Array) -> Array:
        seen = jnp.where(self.singular_values > 0, coefficients, 0.0)
        return _convolved(_hartley(seen), self._phase)

    def u_adjoint(self, observation: Array) -> Array:
        coefficients = _hartley(observation, self._phase.conj())
        return jnp.where(self.singular_values > 0, coefficients, 0.0)

    @property
    def _phase(self) -> Array:
        size = jnp.abs(self.transfer)
        return jnp.where(size > 0, self.transfer / jnp.where(size > 0, size, 1.0), 1.0)


def _half(transfer: Array) -> Array:
    return transfer[..., : transfer.shape[-1] // 2 + 1]


def _convolved(x: Array, transfer: Array) -> Array:
    return jnp.fft.irfftn(_half(transfer) * jnp.fft.rfftn(x), x.shape).astype(x.dtype)


def _hartley(x: Array, transfer: Array | None = None) -> Array:
    """``H x``, or H of a convolution of x: half of a spectrum says what the other half is."""
    modes = jnp.fft.rfftn(x, norm="ortho")
    modes = modes if transfer is None else _half(transfer) * modes
    # Conjugate at -k; the frequency 0 of an axis is its own opposite.
    opposite = jnp.flip((modes.real + modes.imag)[..., 1 : (x.shape[-1] + 1) // 2])
    others = tuple(range(x.ndim - 1))
    opposite = jnp.roll(opposite, (1,) * len(others), others)
    return jnp.concatenate([modes.real - modes.imag, opposite], axis=-1).astype(x.dtype)


def gaussian_blur(shape: tuple[int, ...], sd: float | int) -> Blur:
    """Blur by a Gaussian of ``sd`` pixels: an image, or with one axis a signal."""
    distances = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    squares = sum(d.astype(float) ** 2 for d in np.meshgrid(*distances, indexing="ij"))
    kernel = np.exp(-squares / (2 * sd**2))
    return Blur(kernel / kernel.sum())


def motion_blur(shape: tuple[int, int], length: float | int, angle: float | int) -> Blur:
    """Blur along a straight line of ``length`` pixels at ``angle`` radians to the rows."""
    along = np.linspace(-length / 2, length / 2, 20 * math.ceil(length) + 1)
    kernel = np.zeros(shape)
    row, column = along * np.sin(angle), along * np.cos(angle)
    # Each point of the line is shared among the four pixels around it.
    for down in (0, 1):
        for right in (0, 1):
            i, j = np.floor(row).astype(int) + down, np.floor(column).astype(int) + right
            weight = (1 - np.abs(row - i)) * (1 - np.abs(column - j))
            np.add.at(kernel, (i % shape[0], j % shape[1]), weight)
    return Blur(kernel / kernel.sum())


class Downsampling(eqx.Module):
    """Mean over blocks of ``factor`` x ``factor`` pixels: what super-resolution starts from."""

    template: jax.ShapeDtypeStruct
    factor: int = eqx.field(static=True)

    def __init__(self, shape: tuple[int, int], factor: int) -> None:
        if factor < 1 or any(n % factor for n in shape):
            raise ValueError(f"blocks of {factor} x {factor} do not tile an image {shape}")
        self.template, self.factor = _image(shape), factor

    def __call__(self, image: Array) -> Array:
        return jnp.mean(self._blocks(image), axis=-1)

    @property
    def singular_values(self) -> Array:
        blocks = jax.eval_shape(self._blocks, self.template)
        return jnp.zeros(blocks.shape, blocks.dtype).at[..., 0].set(1 / self.factor)

    def v(self, coefficients: Array) -> Array:
        n, m = self.template.shape
        f = self.factor
        blocks = self._reflect(coefficients).reshape(n // f, m // f, f, f)
        return blocks.transpose(0, 2, 1, 3).reshape(n, m)

    def v_adjoint(self, position: Array) -> Array:
        return self._reflect(self._blocks(position))

    def u(self, coefficients: Array) -> Array:
        return coefficients[..., 0]

    def u_adjoint(self, observation: Array) -> Array:
        shape = (*observation.shape, self.factor**2)
        return jnp.zeros(shape, observation.dtype).at[..., 0].set(observation)

    def _blocks(self, image: Array) -> Array:
        n, m = image.shape
        f = self.factor
        blocks = image.reshape(n // f, f, m // f, f).transpose(0, 2, 1, 3)
        return blocks.reshape(n // f, m // f, f * f)

    def _reflect(self, blocks: Array) -> Array:
        """Householder's reflection between the first pixel and the mean of a block."""
        size = self.factor**2
        if size == 1:
            return blocks
        normal = jnp.full(size, -1 / self.factor, blocks.dtype).at[0].add(1.0)
        normal = normal / jnp.linalg.norm(normal)
        return blocks - 2 * (blocks @ normal)[..., None] * normal


class FourierSampling(eqx.Module):
    """Frequencies of a complex image where ``mask`` is true: single-coil magnetic resonance.

    The image is two channels, real and imaginary part, (2, n, m). The transform is orthonormal,
    its first frequency is zero.
    """

    chosen: Chosen
    template: jax.ShapeDtypeStruct

    def __init__(self, mask: ArrayLike) -> None:
        self.chosen = Chosen(mask)
        self.template = _image((2, *self.chosen.shape))

    def __call__(self, image: Float[Array, "2 n m"]) -> Complex[Array, " k"]:
        return self.u(self.v_adjoint(image))

    @property
    def singular_values(self) -> Array:
        return self.u_adjoint(jnp.full(len(self.chosen.indices), 1 + 1j))

    def v(self, coefficients: Array) -> Array:
        return _parts(jnp.fft.ifft2(_whole(coefficients), norm="ortho"), coefficients.dtype)

    def v_adjoint(self, position: Array) -> Array:
        return _parts(jnp.fft.fft2(_whole(position), norm="ortho"), position.dtype)

    def u(self, coefficients: Array) -> Array:
        return self.chosen.taken(_whole(coefficients))

    def u_adjoint(self, observation: Array) -> Array:
        return _parts(self.chosen.put(observation))


class MultiCoil(eqx.Module):
    """Frequencies of an image through several coils: parallel magnetic resonance.

        y_c = M F (S_c x)

    Without ``is_complex`` the image is real, (n, m); otherwise two channels as in
    `FourierSampling`. One coil of ones makes it single-coil.
    """

    chosen: Chosen
    coils: Complex[Array, "c n m"]
    template: jax.ShapeDtypeStruct

    def __init__(self, mask: ArrayLike, coils: ArrayLike, *, is_complex: bool = True) -> None:
        self.chosen = Chosen(mask)
        shape = self.chosen.shape
        self.coils = jnp.asarray(coils, jnp.result_type(_image(shape).dtype, jnp.complex64))
        if self.coils.shape[1:] != shape:
            raise ValueError(
                f"coils have the shape (coils, *mask.shape), the mask {shape}; got "
                f"{self.coils.shape}"
            )
        self.template = _image((2, *shape) if is_complex else shape)

    def __call__(self, image: Float[Array, "..."]) -> Complex[Array, "c k"]:
        whole = image if self.template.ndim == 2 else _whole(image)
        modes = jnp.fft.fft2(self.coils * whole, norm="ortho")
        return jax.vmap(self.chosen.taken)(modes)


def _whole(parts: Array) -> Array:
    return parts[0] + 1j * parts[1]


def _parts(whole: Array, dtype: Any = None) -> Array:
    return jnp.stack([whole.real, whole.imag]).astype(whole.real.dtype if dtype is None else dtype)


def cartesian_mask(
    rng_key: PRNGKeyArray, shape: tuple[int, int], acceleration: float | int, center: float = 0.08
) -> np.ndarray:
    """Whole columns of frequencies, one in ``acceleration``, with the lowest ones all there."""
    columns = shape[1]
    lowest = np.abs(np.fft.fftfreq(columns, 1 / columns)) <= center * columns / 2
    wanted = round(columns / acceleration) - lowest.sum()
    if wanted < 0:
        raise ValueError(
            f"the {lowest.sum()} lowest of {columns} columns are more than one in {acceleration}; "
            "choose a smaller center"
        )
    others = np.flatnonzero(~lowest)
    chosen = others[np.asarray(random.permutation(rng_key, len(others)))[:wanted]]
    lowest[chosen] = True
    return np.broadcast_to(lowest, shape).copy()


def coil_maps(shape: tuple[int, int], num_coils: int, width: float = 0.5) -> np.ndarray:
    """Smooth sensitivities of coils on a circle around the image, with ``sum_c |S_c|^2 = 1``.

    A Gaussian of ``width`` image sizes, with a phase that turns slowly.
    """
    row, column = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in shape), indexing="ij")
    angles = 2 * np.pi * np.arange(num_coils)[:, None, None] / num_coils
    squares = (row - 0.6 * np.sin(angles)) ** 2 + (column - 0.6 * np.cos(angles)) ** 2
    phase = angles + 2 * (row * np.cos(angles) + column * np.sin(angles))
    maps = np.exp(-squares / (2 * width**2) + 1j * phase)
    return maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))


class Radon(eqx.Module):
    """Sums along parallel rays at each angle: computed tomography, (angles, n) of an n x n image.

    The image is read on a grid turned by the angle, interpolated between pixels, zero outside; a
    pixel has the side 1.
    """

    angles: Float[Array, " a"]
    template: jax.ShapeDtypeStruct

    def __init__(self, size: int, angles: Any) -> None:
        """Take radians, or a number of angles that are spread evenly over half a turn."""
        if isinstance(angles, int):
            angles = np.arange(angles) * np.pi / angles
        self.template = _image((size, size))
        self.angles = jnp.asarray(angles, self.template.dtype)

    def __call__(self, image: Array) -> Array:
        n = image.shape[0]
        middle = (n - 1) / 2
        across, along = jnp.meshgrid(jnp.arange(n) - middle, jnp.arange(n) - middle, indexing="ij")

        def one(angle: Array) -> Array:
            x = across * jnp.cos(angle) - along * jnp.sin(angle)
            y = across * jnp.sin(angle) + along * jnp.cos(angle)
            return jnp.sum(map_coordinates(image, [y + middle, x + middle], order=1), axis=1)

        return jax.vmap(one)(self.angles)


def dense_radon(size: int, angles: Any) -> Dense:
    """`Radon` as a matrix with its exact decomposition, for images of at most 64 x 64 or so.

    Its observation is a vector; ``reshape(-1, size)`` is the sinogram. The decomposition takes
    ``O(size^6)`` once: seconds at 32, a minute at 64.
    """
    return as_matrix(Radon(size, angles))


def as_matrix(operator: Any) -> Dense:
    """The matrix of an operator between real arrays, decomposed."""
    template = operator.template
    basis = jnp.eye(math.prod(template.shape), dtype=template.dtype)
    columns = jax.lax.map(lambda x: operator(x.reshape(template.shape)).reshape(-1), basis)
    return dense(columns.T, template)
