"""`predict`: a fitted NumPyro model on new arguments, once for every draw."""

import math
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Int, PRNGKeyArray
from numpyro import handlers

from ppl.calling import CallableModule
from ppl.energy import TargetError
from ppl.keys import as_key
from ppl.precision import full_precision
from ppl.predictive import BATCH_NUMBERS, Sites, over_draws
from ppl.sites import Forget, RequireShapes, run, shapes_of_outputs
from ppl.template import as_data


@full_precision
def predict(
    draws: Any, /, *args: Any, rng_key: Any = 0, batch_size: int | None = None, **kwargs: Any
) -> dict[str, np.ndarray]:
    """Predict with a fitted NumPyro model: run it on new arguments, once for every draw.

    Parameters
    ----------
    draws
        Draws of a NumPyro model (see `from_numpyro`). Weighted draws are resampled first, as many
        as there are, into one chain.
    args, kwargs
        New arguments of the model; without any those it was fitted with. The data that are to be
        predicted are left out (None, where the model has ``obs=y``) or are any placeholder of
        their shape: they are drawn anew either way.
    rng_key
        Key; draw ``i`` uses ``fold_in(rng_key, i)``, whatever the batch size.
    batch_size
        Draws computed at once. By default as many as hold about four million numbers.

    Returns
    -------
    dict of arrays
        Every site that the draws do not hold, ``(chain, draw, *shape)``, in model order: predicted
        data, deterministic sites at the new inputs, and latent sites that only the new arguments
        make. New arguments of equal shapes compile nothing anew.

    Raises
    ------
    TargetError
        If the draws are not of a NumPyro model, if the arguments do not fit it, or if a latent site
        would get another shape than its draws have.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl, samplers
    >>> def model(x, y=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Normal(slope * x, 0.1), obs=y)
    >>> x = jnp.arange(5.0)
    >>> draws = ppl.sample(samplers.Laplace(), ppl.from_numpyro(model, x, 2 * x), progress=False)
    >>> ppl.predict(draws, jnp.array([10.0, 20.0]))["y"].shape
    (1, 1000, 2)
    """
    program = _model_of(draws)
    if not (args or kwargs):
        args, kwargs = program.args, program.kwargs
    args, kwargs = as_data(args), as_data(kwargs)
    key_resample, key_predict = random.split(as_key(rng_key))
    if draws.log_weights is not None:
        draws = draws.resample(key_resample, draws.num_chains * draws.num_samples)
    latent = {name: np.asarray(draws[name]) for name in program.latent_names}
    one = {name: jax.ShapeDtypeStruct(x.shape[2:], x.dtype) for name, x in latent.items()}
    check = RequireShapes({name: x.shape for name, x in one.items()})
    forget = Forget(frozenset(program.observed_names))

    def outputs(args: tuple, kwargs: dict) -> Sites:
        values = {name: jnp.zeros(x.shape, x.dtype) for name, x in one.items()}
        return _new_sites(program.model, args, kwargs, random.key(0), values, forget, check)

    shapes = shapes_of_outputs(program.model, args, kwargs, outputs)
    if not shapes:
        raise TargetError(
            f"model {program.structure.name} has nothing to predict: with these arguments it has "
            "no observed and no deterministic site"
        )
    if batch_size is None:
        numbers = [math.prod(x.shape) for x in (*shapes.values(), *one.values())]
        batch_size = BATCH_NUMBERS // max(sum(numbers), 1)
    names = frozenset(program.observed_names)
    return over_draws(
        lambda index, batch: _predictions(
            program.model, args, kwargs, names, key_predict, index, batch
        ),
        latent,
        batch_size,
    )


def _model_of(draws: Any) -> Any:
    target = draws.target
    if target is None:
        raise TargetError(
            "predict: these draws were loaded and do not know their model; write "
            "draws.attach(target)"
        )
    if not all(hasattr(target, name) for name in ("model", "latent_names", "observed_names")):
        raise TargetError(
            f"predict runs a NumPyro model on new arguments; the target of these draws is a "
            f"{type(target).__name__}, which has none. Apply a function of your own to "
            "draws.values, with jax.vmap over chains and draws"
        )
    return target


def _new_sites(
    model: Callable,
    args: tuple,
    kwargs: dict,
    rng_key: PRNGKeyArray,
    values: Sites,
    *inner: Any,
) -> OrderedDict[str, Array]:
    """Sites that ``values`` does not hold, in model order."""
    seed, given = handlers.seed(rng_seed=rng_key), handlers.substitute(data=values)
    sites = run(model, args, kwargs, seed, given, *inner).sites
    return OrderedDict(
        (name, jnp.asarray(site["value"]))
        for name, site in sites.items()
        if name not in values
        and (site["type"] == "deterministic" or (site["type"] == "sample" and _is_free(site)))
    )


def _is_free(site: dict[str, Any]) -> bool:
    return not site["is_observed"]  # what is still observed is a factor


@eqx.filter_jit
def _predictions(
    model: Callable,
    args: tuple,
    kwargs: dict,
    observed: frozenset[str],
    rng_key: PRNGKeyArray,
    index: Int[Array, " batch"],
    values: Sites,
) -> OrderedDict[str, Array]:
    def one(i: Array, values: Sites) -> OrderedDict[str, Array]:
        key = random.fold_in(rng_key, i)
        return _new_sites(model, args, kwargs, key, values, Forget(observed))

    return jax.vmap(one)(index, values)


sys.modules[__name__].__class__ = CallableModule
