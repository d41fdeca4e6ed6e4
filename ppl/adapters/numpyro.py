"""Any Markov kernel of this library inside ``numpyro.infer.MCMC``.

    mcmc = MCMC(NumPyroKernel(samplers.MALA(), model), num_warmup=500, num_samples=1000)
    mcmc.run(jax.random.key(0), data)

NumPyro's loop takes one step after the other and knows no windows. Warm-up is therefore run by this
library's driver when NumPyro asks for the first state, and NumPyro's own warm-up steps then pass
without moving the chain (``collect_warmup=True`` collects copies of the start). With
``chain_method="vectorized"`` the chains are tuned together, with ``"sequential"`` each on its own.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from ppl.energy import from_energy
from ppl.inference import sample
from ppl.precision import full_precision
from ppl.program import Program, from_numpyro
from ppl.sampler import MarkovKernel
from ppl.template import as_data


class NumPyroState(NamedTuple):
    """What NumPyro carries along; fields for ``extra_fields`` are ``diverging`` and ``info.*``.

    With vectorized chains every array has a leading chain axis, but those of the kernel.
    """

    z: Any  # unconstrained position
    diverging: Any
    info: Any  # of the last step, as the kernel reports it
    chain: Any
    kernel: Any  # arrays of the tuned kernel
    idle: Int[Array, ""]  # NumPyro's warm-up steps that are still to pass
    rng_key: Any


class NumPyroKernel(MCMCKernel):
    """A `MarkovKernel` as a kernel of ``numpyro.infer.MCMC``.

    Parameters
    ----------
    kernel
        Such as ``samplers.MALA()``.
    model
        A NumPyro model; its arguments go to ``mcmc.run``.
    potential_fn
        Instead of a model: minus a log-density, of a pytree shaped like ``init_params``.

    Raises
    ------
    TypeError
        If ``kernel`` is no Markov kernel: NumPyro's loop runs nothing else.
    ValueError
        If not exactly one of ``model`` and ``potential_fn`` is given; when run, for
        ``chain_method="parallel"`` on several devices and without ``init_params`` where they are
        needed.
    """

    def __init__(
        self,
        kernel: Any,
        model: Callable | None = None,
        potential_fn: Callable | None = None,
    ):
        if not isinstance(kernel, MarkovKernel):
            raise TypeError(
                "numpyro.infer.MCMC runs Markov kernels, such as samplers.NUTS(); got "
                f"{kernel if isinstance(kernel, type) else type(kernel).__name__}. Other samplers "
                "run with ppl.sample(sampler, ppl.from_numpyro(model, ...))"
            )
        if (model is None) == (potential_fn is None):
            raise ValueError("give either model= or potential_fn=, and not both")
        self.kernel, self.model, self.potential_fn = kernel, model, potential_fn
        self._target: Any = None
        self._static: Any = None  # what of the tuned kernel is no array
        self._sample_fn = None  # NumPyro calls `init` again while this is None

    @property
    def sample_field(self) -> Any:
        """Where the draws are in the state."""
        return "z"

    @property
    def default_fields(self) -> Any:
        """What NumPyro collects without being asked."""
        return ("z", "diverging")

    @full_precision
    def init(
        self,
        rng_key: Any,
        num_warmup: int,
        init_params: Any,
        model_args: tuple,
        model_kwargs: dict | None,
    ) -> NumPyroState:
        """Warm up with this library's driver; the state of one chain, or of all vectorized ones."""
        if isinstance(rng_key, Tracer):
            raise ValueError(
                "warm-up is run by a driver on the host, which cannot be traced: write "
                'chain_method="vectorized" (or "sequential")'
            )
        vectorized = not is_prng_key(rng_key)
        chains = len(rng_key) if vectorized else 1
        self._target = self._made(init_params, model_args, model_kwargs, vectorized=vectorized)
        first = jax.random.fold_in(rng_key[0] if vectorized else rng_key, 0)
        if init_params is not None and not vectorized:
            init_params = jax.tree.map(lambda x: jnp.asarray(x)[None], init_params)
        draws = sample(
            self.kernel, self._target, first, num_samples=1, num_chains=chains,
            num_warmup=num_warmup, init=init_params, progress=False,
        )  # fmt: skip
        positions = jax.tree.map(lambda x: jnp.asarray(x[:, -1]), draws.positions)
        arrays, self._static = eqx.partition(draws.sampler, eqx.is_array)
        chain_keys = rng_key if vectorized else rng_key[None]
        chain = jax.vmap(draws.sampler.init, (0, None, 0))(chain_keys, self._target, positions)
        if not vectorized:
            chain = jax.tree.map(lambda x: x[0], chain)
        self._sample_fn = self._step
        idle = jnp.asarray(num_warmup, jnp.int32)
        state = NumPyroState(chain.position, None, None, chain, arrays, idle, rng_key)
        _, info = jax.eval_shape(lambda s: self._step(s, self._target), state)
        info = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), info)
        return state._replace(info=info, diverging=_diverging(info, vectorized=vectorized))

    @full_precision
    def sample(
        self, state: NumPyroState, model_args: tuple, model_kwargs: dict | None
    ) -> NumPyroState:
        """One step of the kernel; nothing while NumPyro counts its warm-up."""
        target = self._with_arguments(model_args, model_kwargs)

        def step(state: NumPyroState) -> NumPyroState:
            chain, info = self._step(state, target)
            vectorized = not is_prng_key(state.rng_key)
            return state._replace(
                z=chain.position,
                diverging=_diverging(info, vectorized=vectorized),
                info=info,
                chain=chain,
            )

        vectorized = not is_prng_key(state.rng_key)
        split = jax.vmap(jax.random.split) if vectorized else jax.random.split
        moved = jax.lax.cond(state.idle > 0, lambda s: s, step, state)
        # A key that is split moves on by itself: a run that is continued draws anew.
        keys = split(state.rng_key)
        return moved._replace(
            rng_key=keys[:, 0] if vectorized else keys[0], idle=jnp.maximum(state.idle - 1, 0)
        )

    def _step(self, state: NumPyroState, target: Any) -> tuple[Any, Any]:
        kernel = eqx.combine(state.kernel, self._static)
        if is_prng_key(state.rng_key):
            return kernel.step(jax.random.split(state.rng_key)[1], target, state.chain)
        step_keys = jax.vmap(lambda key: jax.random.split(key)[1])(state.rng_key)
        return jax.vmap(kernel.step, (0, None, 0))(step_keys, target, state.chain)

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict | None) -> Callable:
        """From an unconstrained position to latent and deterministic sites."""
        if self.model is None:
            return lambda z: z
        target = self._with_arguments(model_args, model_kwargs)
        return lambda z: dict(target.outputs(z))

    def get_diagnostics_str(self, state: NumPyroState) -> Any:
        """Step size for the progress bar, where the kernel has one."""
        step_size = getattr(state.kernel, "step_size", None)
        return "" if step_size is None else f"step size {float(np.mean(step_size)):.2e}"

    def __getstate__(self) -> dict:
        """Without what belongs to a run, so that kernels can be pickled."""
        return self.__dict__ | {"_target": None, "_static": None, "_sample_fn": None}

    def _made(self, init_params: Any, args: tuple, kwargs: dict | None, *, vectorized: bool) -> Any:
        if self.model is not None:
            return from_numpyro(self.model, *args, **(kwargs or {}))
        assert self.potential_fn is not None
        if init_params is None:
            raise ValueError(
                "with potential_fn= the start must be given: mcmc.run(key, init_params=...)"
                + (", with a leading chain axis" if vectorized else "")
            )
        lead = 1 if vectorized else 0
        one = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[lead:], jnp.result_type(x)), init_params
        )
        return from_energy(self.potential_fn, one)

    def _with_arguments(self, args: tuple, kwargs: dict | None) -> Any:
        """The target with these arguments, which are traced under ``jit_model_args=True``."""
        if not isinstance(self._target, Program):
            return self._target
        return replace(self._target, args=as_data(args), kwargs=as_data(kwargs or {}))


def _diverging(info: Any, *, vectorized: bool) -> Array:
    shape = jax.tree.leaves(info)[0].shape[:1] if vectorized else ()
    return getattr(info, "diverging", jnp.zeros(shape, bool))
