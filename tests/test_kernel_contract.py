"""Every sampler of the table keeps the contract of `ppl.sampler`, in both precisions.

One program is compiled for each kernel and precision, fast and unoptimized; all claims about it are
made on the runs of that one program.
"""

from dataclasses import fields
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random

import ppl
import samplers
from compilations import Compilations, count_compilations
from gaussian_proposal import GaussianProposal
from ppl.sampler import DirectSampler, LearnedSampler, MarkovKernel, ParticleSampler

NUM_CHAINS, NUM_STEPS, WALL = 3, 12, 0.05
REQUIRED = {
    "AdamLMC": {"step_size": 0.1},
    "BregmanLangevin": {"mirror": samplers.Hyperbolic(1.0), "geometry": samplers.Euclidean()},
    "DataLangevin": {"score": jnp.negative, "step_size": 0.1},
    "IndependenceMetropolis": {"proposal": GaussianProposal()},
    "Gibbs": {"blocks": {"a": samplers.RandomWalk()}},
    "LogConcaveChain": {"sigma": 1.0},
    "MYULA": {"step_size": 0.1},
    "RejectionSampling": {"log_bound": 0.0},
    "MirrorLangevin": {"mirror": samplers.Hyperbolic(1.0), "step_size": 0.1},
    "SKROCK": {"step_size": 0.1},
    "SGHMC": {"step_size": 0.1, "batch_size": 5},
    "SGLD": {"step_size": 0.1, "batch_size": 5},
    "SiteMetropolis": {"values": 3},
    "ULA": {"step_size": 0.1},
}
TUNED = {"GibbsianPolarSlice": "width"}  # by another field than a step size
# These need more of a target than a density; their own tests give it.
OTHER_TARGETS = {
    "BackAndForth",
    "DAPS",
    "DDRM",
    "DPS",
    "DataLangevin",
    "DecomposedDiffusion",
    "DenoisingDiffusion",
    "DiffPIR",
    "DiffusionSampler",
    "EllipticalSlice",
    "FPSSMC",
    "GFlowNet",
    "Gibbs",
    "IndependenceMetropolis",
    "MCGDiff",
    "MaskedDiffusion",
    "NestedSampling",
    "ParallelTempering",
    "PiGDM",
    "PnPDM",
    "REDDiff",
    "RejectionSampling",
    "SGHMC",
    "SGLD",
    "STSL",
    "StochasticInterpolant",
    "SequenceMetropolis",
    "SiteMetropolis",
    "TMPD",
    "TwistedSMC",
    "WalkJump",
    "WalkJumpGibbs",
}
CLASSES = {row.name: getattr(samplers, row.name) for row in samplers.table()}
STATE_SPACE = {name for name, cls in CLASSES.items() if "state_space" in cls.needs}
OTHER_TARGETS |= STATE_SPACE
OTHER_TARGETS |= {name for name, cls in CLASSES.items() if cls.needs & {"denoise", "unmask"}}


def of_kind(kind: type) -> list[str]:
    return [name for name, cls in CLASSES.items() if issubclass(cls, kind)]


def make(name: str, **values: Any) -> Any:
    return CLASSES[name](**(REQUIRED.get(name, {}) | values))


def template(dtype: Any) -> Any:
    shapes = {"a": (), "b": {"c": (2,), "d": (1, 2)}}
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, dtype), shapes, is_leaf=lambda x: type(x) is tuple
    )


def log_density(p: Any, scale: Any, wall: Any) -> Any:
    squares = sum(jnp.sum((x / scale) ** 2) for x in jax.tree.leaves(p))
    return jnp.where(p["a"] > wall, jnp.nan, -0.5 * squares)


def smooth_part(p: Any, scale: Any, wall: Any) -> Any:
    return log_density(p, scale, wall) + 0.1 * sum(jnp.sum(x**2) for x in jax.tree.leaves(p))


def target_of(dtype: Any, name: str, scale: float = 1.0, wall: float = np.inf) -> ppl.energy.Energy:
    """Gaussian of this scale; beyond the wall its density is NaN.

    A proximal kernel gets the same density, of which a part is known by its proximal map.
    """
    scale, wall = np.asarray([scale, wall], dtype)
    if "proximal_map" not in CLASSES[name].needs:
        return ppl.from_log_density(log_density, template(dtype), scale, wall)
    smooth = ppl.from_log_density(smooth_part, template(dtype), scale, wall)
    return ppl.composite(smooth, samplers.Quadratic(0.2))


@eqx.filter_jit
def program(kernel: Any, target: Any, keys: Any, positions: Any) -> Any:
    """States, positions and infos; init and step vmapped over chains, steps scanned, in a jit."""

    def one(states: Any, keys: Any) -> Any:
        states, infos = jax.vmap(kernel.step, (0, None, 0))(keys, target, states)
        return states, (states.position, infos)

    states = jax.vmap(kernel.init, (0, None, 0))(keys[0], target, positions)
    return jax.lax.scan(one, states, keys[1:])


def start(dtype: Any) -> Any:
    leaves, treedef = jax.tree.flatten(template(dtype))
    offsets = np.arange(NUM_CHAINS, dtype=dtype) / 10
    rows = [
        jnp.asarray(np.broadcast_to(-offsets.reshape(-1, *(1,) * leaf.ndim), (3, *leaf.shape)))
        for leaf in leaves
    ]
    return jax.tree.unflatten(treedef, rows)


class Runs(NamedTuple):
    name: str
    dtype: Any
    first: Any
    again: Any
    other_key: Any
    other_data: Any
    other_step_size: Any
    reversed: Any
    walled: Any
    count: Compilations


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, dtype), id=label)
        for name in of_kind(MarkovKernel)
        if name not in OTHER_TARGETS
        for dtype in (np.float32, np.float64)
        for label in [f"{name}-{dtype.__name__}"]
    ],
)
def runs(request):
    name, dtype = request.param
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(dtype is np.float64):
        target, other, walled = (
            target_of(dtype, name),
            target_of(dtype, name, scale=0.1),
            target_of(dtype, name, wall=WALL),
        )
        kernel = make(name).resolve(target)
        tuned = TUNED.get(name, "step_size")
        shorter = eqx.tree_at(lambda k: getattr(k, tuned), kernel, getattr(kernel, tuned) / 2)
        keys, other_keys = random.split(random.key(0), (2, NUM_STEPS + 1, NUM_CHAINS))
        positions = start(dtype)
        keys_back, positions_back = keys[:, ::-1], jax.tree.map(lambda x: x[::-1], positions)
        first = program(kernel, target, keys, positions)
        with count_compilations() as count:
            later = (
                program(kernel, target, keys, positions),
                program(kernel, target, other_keys, positions),
                program(kernel, other, keys, positions),
                program(shorter, target, keys, positions),
                program(kernel, target, keys_back, positions_back),
                program(kernel, walled, keys, positions),
            )
        yield Runs(name, dtype, *jax.tree.map(np.asarray, (first, *later)), count)
    jax.config.update("jax_disable_most_optimizations", before)


def draws(run: Any) -> list[np.ndarray]:
    return jax.tree.leaves(run[1][0])


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(draws(a), draws(b), strict=True))


# Markov kernels -------------------------------------------------------------------------------


def test_positions_keep_structure_shape_and_precision(runs):
    positions = runs.first[1][0]
    assert jax.tree.structure(positions) == jax.tree.structure(template(runs.dtype))
    for x, leaf in zip(draws(runs.first), jax.tree.leaves(template(runs.dtype)), strict=True):
        assert x.shape == (NUM_STEPS, NUM_CHAINS, *leaf.shape)
        assert x.dtype == runs.dtype
        assert np.isfinite(x).all()


def test_every_chain_moves(runs):
    for x in draws(runs.first):
        assert (np.ptp(x.reshape(NUM_STEPS, NUM_CHAINS, -1), axis=0) > 0).all()


def test_the_state_ends_where_the_last_draw_is(runs):
    states, (positions, _) = runs.first
    last = jax.tree.map(lambda x: x[-1], positions)
    assert jax.tree.all(jax.tree.map(np.array_equal, states.position, last))
    squares = sum(np.sum(x.reshape(NUM_CHAINS, -1) ** 2, 1) for x in jax.tree.leaves(last))
    np.testing.assert_allclose(states.log_density, -0.5 * squares, rtol=1e-5)


def test_the_same_key_gives_the_same_draws_and_another_key_others(runs):
    assert same(runs.first, runs.again)
    assert not same(runs.first, runs.other_key)


def test_data_and_step_size_are_arguments(runs):
    assert not same(runs.first, runs.other_data)
    assert not same(runs.first, runs.other_step_size)


def test_new_keys_data_and_step_sizes_neither_trace_nor_compile(runs):
    assert runs.count.traced == []
    assert runs.count.compiled == []


def test_chains_know_nothing_of_each_other(runs):
    for x, y in zip(draws(runs.first), draws(runs.reversed), strict=True):
        np.testing.assert_array_equal(x, y[:, ::-1])


def test_evaluations_are_counted(runs):
    evaluations = runs.first[1][1].num_evaluations
    assert evaluations.shape == (NUM_STEPS, NUM_CHAINS, 2)
    assert evaluations.dtype == np.int32
    assert (evaluations[..., 0] > 0).all()
    needs_gradient = "gradient" in CLASSES[runs.name].needs
    assert ((evaluations[..., 1] > 0) == needs_gradient).all()


def test_infos_say_what_draws_and_reports_look_for(runs):
    info = runs.first[1][1]
    assert info.diverging.dtype == bool
    assert not info.diverging.any()
    if CLASSES[runs.name].exactness == "exact":
        # A mean over a tree may be rounded up.
        assert ((info.acceptance_rate >= 0) & (info.acceptance_rate < 1 + 1e-5)).all()


def test_a_density_that_is_nan_is_a_divergence_and_never_a_draw(runs):
    positions, info = runs.walled[1]
    assert (positions["a"] <= WALL).all()
    assert all(np.isfinite(x).all() for x in draws(runs.walled))
    assert info.diverging.any()
    assert np.isfinite(runs.walled[0].log_density).all()


NARROW = pytest.mark.xfail(reason="BlackJAX's trees carry default floats", raises=TypeError)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=NARROW if name == "NUTS" else ())
        for name in of_kind(MarkovKernel)
        if name not in OTHER_TARGETS
    ],
)
@pytest.mark.usefixtures("x64")
def test_float32_positions_stay_so_where_float64_is_enabled(name):
    """Traced only. Numbers in fields are float64 here and must not widen what a loop carries."""
    target = target_of(np.float32, name)
    kernel = make(name).resolve(target)
    keys = random.split(random.key(0), (NUM_STEPS + 1, NUM_CHAINS))
    states, _ = eqx.filter_eval_shape(program, kernel, target, keys, start(np.float32))
    floats = {x.dtype for x in jax.tree.leaves(states) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {np.dtype(np.float32)}


# Populations ----------------------------------------------------------------------------------


def model(y):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(x + z.sum(), 1.0), obs=y)


def walk(y):
    return ppl.StateSpaceModel(
        lambda: dist.Normal(jnp.zeros(2), 1.0),
        lambda t, x: dist.Normal(x, 1.0),
        lambda t, x: dist.Normal(x.sum(), 1.0),
        y,
    )


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in of_kind(ParticleSampler) + of_kind(LearnedSampler)
        if name not in OTHER_TARGETS
    ],
)
def test_a_step_keeps_the_state_of_a_population(name, double):
    with jax.enable_x64(double):
        target, key = ppl.from_numpyro(model, jnp.asarray(0.5)), random.key(0)
        target = walk(jnp.zeros(3)) if name in STATE_SPACE else target
        sampler = make(name).resolve(target)
        state = jax.eval_shape(lambda key: sampler.init(key, target), key)
        after, info = jax.eval_shape(lambda key, s: sampler.step(key, target, s), key, state)
        assert shapes(after) == shapes(state)
        assert info.num_evaluations == jax.ShapeDtypeStruct((2,), jnp.int32)
        assert jax.eval_shape(sampler.done, state) == jax.ShapeDtypeStruct((), bool)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        name
        for kind in (ParticleSampler, LearnedSampler, DirectSampler)
        for name in of_kind(kind)
        if name not in OTHER_TARGETS
    ],
)
def test_draws_of_a_population_are_positions_with_their_weights(name, double):
    with jax.enable_x64(double):
        target, key = ppl.from_numpyro(model, jnp.asarray(0.5)), random.key(0)
        sampler = make(name).resolve(target)

        def drawn(key):
            if isinstance(sampler, DirectSampler):
                return *sampler.draw(key, target, 7), None
            state = sampler.init(key, target)
            if isinstance(sampler, LearnedSampler):
                return *sampler.draw(key, target, state, 7), None
            return sampler.collect(key, target, state, None)

        positions, log_weights, log_evidence = jax.eval_shape(drawn, key)
        (n, *_) = {x.shape[0] for x in jax.tree.leaves(positions)}
        assert shapes(positions) == jax.tree.map(
            lambda leaf: ((n, *leaf.shape), leaf.dtype), target.template
        )
        assert log_weights is None or log_weights.shape == (n,)
        assert log_evidence is None or log_evidence.shape == ()


# Hyperparameters ------------------------------------------------------------------------------

# A logarithm may be negative; what is no number is refused in its own tests.
NO_NUMBERS = {("RejectionSampling", "log_bound")}
NUMBERS = [
    (name, field.name)
    for name, cls in CLASSES.items()
    for field in fields(cls)
    if "converter" in field.metadata
    if field.name not in ("brief", "warm", "metric", "tuning", "solver", "schedule")
    if (name, field.name) not in NO_NUMBERS
]


@pytest.mark.parametrize(("name", "field"), NUMBERS, ids=lambda value: value)
def test_a_bad_number_is_refused_by_name(name, field):
    for value in (-1, float("nan"), True):
        with pytest.raises(ValueError, match=rf"^{field} must be .*; got"):
            make(name, **{field: value})


@pytest.mark.parametrize(
    "name", [name for name, cls in CLASSES.items() if "step_size" in {f.name for f in fields(cls)}]
)
def test_a_step_size_of_zero_is_refused(name):
    with pytest.raises(ValueError, match=r"^step_size must be a positive number; got 0"):
        make(name, step_size=0.0)


# What they are for.
DISCRETE = {"BackAndForth", "Gibbs", "SequenceMetropolis", "SiteMetropolis", "WalkJumpGibbs"}


@pytest.mark.parametrize("name", [name for name in of_kind(MarkovKernel) if name not in DISCRETE])
def test_a_discrete_target_is_refused_by_a_continuous_kernel_before_anything_runs(name):
    target = ppl.from_log_density(lambda x: -1.0 * jnp.sum(x**2), jnp.zeros(3, jnp.int32))
    with pytest.raises(ppl.TargetError) as refused:
        ppl.sample(make(name), target, progress=False)
    assert str(refused.value).startswith(name)
    if "gradient" in CLASSES[name].needs:
        assert "positions are discrete, {x: int32[3]}" in str(refused.value)


@pytest.mark.parametrize("name", sorted(DISCRETE))
def test_a_continuous_target_is_refused_by_a_discrete_kernel(name):
    target = ppl.from_log_density(lambda x: -jnp.sum(x**2), jnp.zeros(3))
    with pytest.raises(ppl.TargetError, match=rf"^{name} "):
        ppl.sample(make(name), target, progress=False)


@pytest.mark.parametrize("name", CLASSES)
def test_an_unknown_option_is_an_error(name):
    with pytest.raises(TypeError, match="num_leapfrogs"):
        make(name, num_leapfrogs=3)


@pytest.mark.parametrize("name", CLASSES)
def test_equal_samplers_have_one_structure(name):
    """What differs between two equal samplers would compile twice."""
    assert jax.tree.structure(make(name)) == jax.tree.structure(make(name))
