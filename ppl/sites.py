"""What a NumPyro model consists of, found by abstract tracing, and the handlers that run it.

`read_model` runs the model under ``jax.eval_shape``: nothing is computed or compiled and no site is
sampled. What it learns (names, kinds, shapes, plates) is hashable and is kept for the next call
with data of equal shapes. What cannot be a density is refused here, by the name of the site.
"""

import inspect
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
from jax import Array, random
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import IdentityTransform, IndependentTransform
from numpyro.distributions.util import sum_rightmost
from numpyro.primitives import Messenger

from ppl.energy import TargetError
from ppl.structure import Kind, Plate, Site, Structure, listed, refuse, refuse_subsampled

type Message = dict[str, Any]
JACOBIAN = "log_jacobian_of"  # key of ``infer``: the latent site whose log-Jacobian a factor is


# Handlers -------------------------------------------------------------------------------------


class Recorder(Messenger):
    """Collects the messages of named sites, and refuses a name that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Message] = {}
        self.plates: dict[str, Message] = {}
        self.draws_keys = False

    def postprocess_message(self, msg: Message) -> None:
        """Keep a copy of the message."""
        if msg["type"] == "prng_key":
            self.draws_keys = True
        if "name" not in msg:
            return
        name, is_plate = msg["name"], msg["type"] == "plate"
        if name in self.sites or (name in self.plates and not is_plate):
            raise TargetError(
                f"the model uses the name {name!r} twice; every site and every plate needs a name "
                'of its own (in a Python loop write f"x{i}", or use numpyro.plate)'
            )
        (self.plates if is_plate else self.sites)[name] = msg.copy()


class FixedKey(Messenger):
    """Gives ``numpyro.prng_key()`` one fixed key, so that a density is a function."""

    def process_message(self, msg: Message) -> None:
        """Fill in the key."""
        if msg["type"] == "prng_key" and msg["value"] is None:
            msg["value"] = random.key(0)


class Rows(Messenger):
    """Makes a plate use the given rows, however many."""

    def __init__(self, plate: str, indices: Array) -> None:
        super().__init__()
        self.plate, self.indices = plate, indices

    def process_message(self, msg: Message) -> None:
        """Replace the indices of the plate."""
        if msg["type"] == "plate" and msg["name"] == self.plate:
            msg["value"], msg["args"] = self.indices, (msg["args"][0], len(self.indices))


class Forget(Messenger):
    """Makes observed sites draw anew; a seed handler stands outside it.

    Observations may be more than the distribution says (``Normal(mu, s)`` with ``obs`` of shape
    (3,), no plate): every one of them is drawn on its own.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def process_message(self, msg: Message) -> None:
        """Drop the observation."""
        # An observation that is left out (obs=None) is drawn as it is.
        if msg["type"] == "sample" and msg["name"] in self.names and msg["value"] is not None:
            fn, shape = msg["fn"], jnp.shape(msg["value"])
            batch = jnp.broadcast_shapes(fn.batch_shape, shape[: len(shape) - fn.event_dim])
            msg["fn"] = fn if batch == fn.batch_shape else fn.expand(batch)
            msg["value"], msg["is_observed"] = None, False


class RequireShapes(Messenger):
    """Refuses a site whose distribution has another shape than the values to be put there."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes = shapes

    def process_message(self, msg: Message) -> None:
        """Compare; a site inside NumPyro's scan is not seen."""
        if msg["type"] != "sample" or msg["name"] not in self.shapes:
            return
        expected = tuple(msg["kwargs"]["sample_shape"]) + tuple(msg["fn"].shape())
        if expected != self.shapes[msg["name"]]:
            raise TargetError(
                f"with these arguments site {msg['name']!r} has the shape {expected}, but its "
                f"draws have {self.shapes[msg['name']]}: they say nothing about other groups than "
                "those that were fitted. Keep the number of groups, or draw new groups in the "
                "model under another name"
            )


def run(model: Callable, args: tuple, kwargs: dict, *inner: Messenger) -> Recorder:
    """Run the model under handlers, outermost first."""
    recorder = Recorder()
    with ExitStack() as stack:
        for handler in (recorder, *inner):
            stack.enter_context(handler)
        model(*args, **kwargs)
    return recorder


def place(position: dict[str, Array], site: Message) -> Array | None:
    """Value of a latent site at an unconstrained position; its log-Jacobian becomes a factor.

    The bijection comes from the distribution the model has just made, so a support may depend on
    other sites. A factor meets the plates and masks of its site and works inside NumPyro's scan,
    where a value recorded by Python would leak.
    """
    name = site["name"]
    if site["type"] != "sample" or site["is_observed"] or name not in position:
        return None
    fn, z = site["fn"], position[name]
    bijection = biject_to(fn.support)
    step = site["infer"].get("_scan_current_index")
    if step is not None and jnp.ndim(z) > len(bijection.inverse_shape(fn.shape())):
        z = z[step]
    value = bijection(z)
    if not _is_identity(bijection):
        log_det = bijection.log_abs_det_jacobian(z, value)
        log_det = sum_rightmost(log_det, jnp.ndim(log_det) - jnp.ndim(value) + fn.event_dim)
        unit = dist.Unit(log_det)
        numpyro.sample(f"_{name}_log_det", unit, obs=unit.sample(None), infer={JACOBIAN: name})
    return value


def _is_identity(bijection: Any) -> bool:
    while isinstance(bijection, IndependentTransform):
        bijection = bijection.base_transform
    return isinstance(bijection, IdentityTransform)


# Facts ----------------------------------------------------------------------------------------


def _bases(fn: Any) -> list[Any]:
    """Return the distribution and those it wraps: expanded, masked, transformed."""
    chain = [fn]
    while hasattr(chain[-1], "base_dist"):
        chain.append(chain[-1].base_dist)
    return chain


def _describe(message: Message) -> Site:
    """Facts of one site; runs inside abstract tracing, so only shapes may be kept."""
    name, shape = message["name"], jnp.shape(message["value"])
    plates = tuple((frame.name, frame.dim, frame.size) for frame in message["cond_indep_stack"])
    scanned = message.get("_control_flow_done", False)
    if message["type"] == "deterministic":
        return Site(name, "deterministic", shape, plates, scanned)
    fn = message["fn"]
    base = _bases(fn)[-1]
    kind: Kind = "discrete" if fn.support.is_discrete else "latent"
    if message["is_observed"]:
        # Nobody observes a point mass: reparametrizations carry densities in them.
        special: dict[type, Kind] = {dist.Unit: "factor", dist.Delta: "auxiliary"}
        kind = special.get(type(base), "observed")
    elif isinstance(base, dist.Delta):
        raise TargetError(
            f"site {name!r} is latent with a Delta distribution, a point mass without a density; "
            "write numpyro.deterministic for a computed value"
        )
    return Site(
        name,
        kind,
        shape,
        plates,
        scanned,
        position_shape=_bijection(message).inverse_shape(shape) if kind == "latent" else (),
        batch_shape=tuple(fn.batch_shape),
        event_dim=fn.event_dim,
        event_dims=tuple(message["infer"].get("event_dims", ())),
        distribution=type(base).__name__.removesuffix("Probs").removesuffix("Logits"),
        support=_support(fn),
        is_enumerable=bool(fn.has_enumerate_support),
        is_scaled=message["scale"] is not None,
        no_draw=_no_draw(message) if kind == "latent" else "",
    )


def _support(fn: Any) -> str:
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    # Bounds are traced here; only the kind of the support is a fact.
    return type(support).__name__.strip("_")


def _no_draw(message: Message) -> str:
    chain = _bases(message["fn"])
    if type(chain[-1]).sample is dist.Distribution.sample:
        return f"{type(chain[-1]).__name__} is no proper prior"
    if any(isinstance(fn, dist.MaskedDistribution) and fn._mask is not True for fn in chain):
        return "a mask takes part of its prior away"
    if message["scale"] is not None:
        return "handlers.scale makes its prior another one than its distribution draws from"
    return ""


def _bijection(site: Message) -> Any:
    try:
        return biject_to(site["fn"].support)
    except NotImplementedError as error:
        support = _support(site["fn"])
        hint = (
            "numpyro.handlers.reparam with ProjectedNormalReparam makes it from a vector"
            if "Sphere" in support
            else "make it from sites on the reals, or register a bijection with "
            "numpyro.distributions.biject_to"
        )
        raise TargetError(
            f"site {site['name']!r} ({type(_bases(site['fn'])[-1]).__name__}) has the support "
            f"{support}, onto which no bijection from the reals is known; {hint}"
        ) from error


def start_value(site: Message) -> Array | None:
    """Any value of a latent site: shapes are wanted, so nothing is sampled."""
    if site["type"] != "sample" or site["value"] is not None:
        return None
    fn = site["fn"]
    shape = tuple(site["kwargs"]["sample_shape"]) + tuple(fn.shape())
    if fn.support.is_discrete:
        return jnp.zeros(shape, int)
    bijection = _bijection(site)
    return bijection(jnp.zeros(bijection.inverse_shape(shape)))


def _facts(model: Callable, args: tuple, kwargs: dict, *inner: Messenger) -> Structure:
    """Facts of all sites; runs inside abstract tracing."""
    seed = handlers.seed(rng_seed=random.key(0))  # a subsampled plate draws its rows
    record = run(model, args, kwargs, seed, handlers.substitute(substitute_fn=start_value), *inner)
    for kind in ("param", "mutable"):
        if names := [site["name"] for site in record.sites.values() if site["type"] == kind]:
            raise TargetError(_NO_STATE[kind].format(sites=listed(names)))
    sites = [_describe(message) for message in record.sites.values()]
    names = {site.name for site in sites}
    for i, site in enumerate(sites):
        # CircularReparam and NeuTraReparam write the density of a prior as a factor.
        circular = site.name.removesuffix("_factor") + "_unwrapped"
        warped = site.name.removeprefix("_").removesuffix("_log_prob")
        if site.kind == "factor" and (
            circular in names or (warped != site.name and warped in names)
        ):
            sites[i] = replace(site, kind="auxiliary")
    plates = tuple(
        Plate(name, message["args"][0], message["value"].shape[0])
        for name, message in record.plates.items()
    )
    return Structure(model_name(model), tuple(sites), plates, record.draws_keys)


# Reading --------------------------------------------------------------------------------------


def model_name(model: Callable) -> str:
    """Name of a model for messages."""
    return getattr(model, "__name__", type(model).__name__)


def read_model(
    model: Any, args: tuple, kwargs: dict, prior_factors: tuple[str, ...] = ()
) -> Structure:
    """Facts about a model with these arguments, which `ppl.template.as_data` has converted.

    Sites in ``prior_factors`` become auxiliary.

    Raises
    ------
    TargetError
        If the arguments do not fit the model, if it fails on them, or has no density.
    """
    if not callable(model):
        raise TargetError(f"a NumPyro model is a function; got {model!r}")
    _check_arguments(model, args, kwargs)
    arrays, rest = eqx.partition((model, args, kwargs), eqx.is_array)
    leaves, treedef = jax.tree.flatten(rest)
    arrays, array_treedef = jax.tree.flatten(arrays)
    # 1, 1.0 and True are equal but not the same argument, hence the types.
    typed = tuple((type(leaf), leaf) for leaf in leaves)
    shapes = tuple((x.shape, x.dtype) for x in arrays)
    x64 = jnp.result_type(float) == jnp.float64
    for leaf in leaves:
        if not isinstance(leaf, Hashable):
            raise TargetError(
                f"an argument of model {model_name(model)} holds a {type(leaf).__name__}, which is "
                "neither data (arrays, numbers, pytrees of these) nor a setting that can be "
                "compared (ints, strings, functions)"
            )
    return _read(treedef, typed, array_treedef, shapes, prior_factors, x64)


@lru_cache(maxsize=256)
def _read(
    treedef: Any,
    typed: tuple,
    array_treedef: Any,
    shapes: tuple,
    prior_factors: tuple[str, ...],
    x64: Any,
) -> Structure:
    del x64  # part of the key: shapes are those of this mode
    rest = jax.tree.unflatten(treedef, [leaf for _, leaf in typed])
    arrays = jax.tree.unflatten(array_treedef, [jax.ShapeDtypeStruct(*x) for x in shapes])

    def facts(*inner: Messenger) -> Structure:
        found: list[Structure] = []
        jax.eval_shape(lambda x: found.append(_facts(*eqx.combine(x, rest), *inner)), arrays)
        return found[0]

    try:
        structure = facts()
        sites = [
            replace(site, kind="auxiliary") if site.name in prior_factors else site
            for site in structure.sites
        ]
        structure = replace(structure, sites=tuple(sites))
    except TargetError:
        raise
    except Exception as error:
        raise _explained(model_name(rest[0]), error) from error
    refuse(structure)
    plate = _row_plate(structure)
    follows = plate is not None and _follows_rows(structure, plate, facts)
    structure = replace(structure, row_plate=plate, follows_rows=follows)
    refuse_subsampled(structure)
    return structure


def shapes_of_outputs(
    model: Callable, args: tuple, kwargs: dict, outputs: Callable[[tuple, dict], Any]
) -> Any:
    """Shapes of what ``outputs(args, kwargs)`` gives when it runs the model; nothing is computed.

    Raises
    ------
    TargetError
        If the arguments do not fit the model, or if it fails on them.
    """
    _check_arguments(model, args, kwargs)
    try:
        return eqx.filter_eval_shape(outputs, args, kwargs)
    except TargetError:
        raise
    except Exception as error:
        raise _explained(model_name(model), error) from error


def _row_plate(structure: Structure) -> Plate | None:
    """Return the one plate that holds all of the likelihood."""
    sites = [site for site in structure.sites if site.kind in ("observed", "factor")]
    if not sites or any(site.is_scanned for site in sites) or structure.named("discrete"):
        return None
    common = set.intersection(*({name for name, _, _ in site.plates} for site in sites))
    plates = [plate for plate in structure.plates if plate.name in common]
    if len(plates) != 1:
        return None
    # A prior that lies in some rows only could not be evaluated.
    held = {
        name for site in structure.sites if site.kind == "auxiliary" for name, *_ in site.plates
    }
    return None if plates[0] in structure.subsampled and plates[0].name in held else plates[0]


def _follows_rows(structure: Structure, plate: Plate, facts: Callable[..., Structure]) -> bool:
    """Whether other rows in the plate mean other data: a trial with another number of rows."""
    number = plate.size if plate.used != plate.size else plate.size - 1
    if number == 0:
        return False
    try:
        trial = facts(Rows(plate.name, jnp.arange(number)))
    except Exception:  # the model and the rows do not fit; how they fail is its own affair
        return False
    for before, after in zip(structure.sites, trial.sites, strict=True):
        if before.kind == "latent" and before.shape != after.shape:
            return False
        dims = [dim for name, dim, _ in after.plates if name == plate.name]
        if after.kind == "observed":
            axis = len(after.shape) - after.event_dim + dims[0]
            if axis < 0 or after.shape[axis] != number:
                return False
    return True


# Errors of the model --------------------------------------------------------------------------

_NO_STATE = {
    "param": (
        "numpyro.param {sites}: a parameter to optimize has no prior, so the model has no density "
        "in it. Give it one with numpyro.sample (networks: random_flax_module, "
        "random_nnx_module), or pass its value as an argument"
    ),
    "mutable": (
        "numpyro.mutable {sites}: a model with mutable state is no density; pass the state as an "
        "argument"
    ),
}


def _check_arguments(model: Callable, args: tuple, kwargs: dict) -> None:
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):  # a builtin or a C function does not tell
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        keywords = f"the keywords {listed(kwargs)}" if kwargs else "no keywords"
        raise TargetError(
            f"model {model_name(model)}{signature} was given {len(args)} positional argument(s) "
            f"and {keywords}: {error}"
        ) from error


def _explained(name: str, error: Exception) -> TargetError:
    """Turn an error of the user's model into what to write instead."""
    static = "Sizes and flags are passed as Python ints, bools or strings, which are static"
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return TargetError(
            f"model {name} branches in Python on a latent value or on data; write jnp.where or "
            f"jax.lax.cond. {static}"
        )
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return TargetError(
            f"model {name} hands a latent value or data to NumPy; write jax.numpy instead. {static}"
        )
    if isinstance(
        error,
        jax.errors.ConcretizationTypeError
        | jax.errors.TracerIntegerConversionError
        | jax.errors.NonConcreteBooleanIndexError,
    ):
        return TargetError(
            f"model {name} needs the value of a latent site or of data where only shapes are "
            f"known (a size, an index of a list, a boolean mask as an index). {static}; a mask "
            f"goes into jnp.where or numpyro.handlers.mask. JAX says: {_first_line(error)}"
        )
    return TargetError(f"model {name} fails: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
