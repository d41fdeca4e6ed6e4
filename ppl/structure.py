"""The structure of a NumPyro model: plain facts, what they forbid, what they call the axes.

Facts are hashable and hold no arrays. `ppl.sites` finds them; this module judges them.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ppl.energy import TargetError

type Kind = Literal["latent", "discrete", "observed", "factor", "auxiliary", "deterministic"]

# Group and sample dimension names of ArviZ: as names of sites they make draws unreadable there.
RESERVED = frozenset(
    "posterior prior sample_stats log_likelihood log_prior posterior_predictive prior_predictive "
    "predictions observed_data constant_data predictions_constant_data unconstrained_posterior "
    "warmup_posterior warmup_sample_stats sample_stats_prior chain draw sample".split()
)


@dataclass(frozen=True)
class Site:
    """One named site.

    *Observed* sites and *factors* are the likelihood unless the user says otherwise; *auxiliary*
    ones belong to the prior: the user says so, or a reparametrization made them.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    plates: tuple[tuple[str, int, int], ...]  # name, dim, rows used
    is_scanned: bool = False
    position_shape: tuple[int, ...] = ()
    batch_shape: tuple[int, ...] = ()
    event_dim: int = 0
    event_dims: tuple[str, ...] = ()
    distribution: str = ""
    support: str = ""
    is_enumerable: bool = False
    is_scaled: bool = False
    no_draw: str = ""  # why a prior draw of this site does not exist


@dataclass(frozen=True)
class Plate:
    """A plate of ``size`` rows, of which the model uses ``used``."""

    name: str
    size: int
    used: int


@dataclass(frozen=True)
class Structure:
    """All there is to know about a model before it computes anything."""

    name: str
    sites: tuple[Site, ...]
    plates: tuple[Plate, ...]
    draws_keys: bool
    row_plate: Plate | None = None  # the one plate that holds all observed sites
    follows_rows: bool = False  # the model indexes its data by the rows of that plate

    def named(self, *kinds: Kind) -> tuple[str, ...]:
        """Names of the sites of some kinds, in model order."""
        return tuple(site.name for site in self.sites if site.kind in kinds)

    @property
    def subsampled(self) -> tuple[Plate, ...]:
        """Plates that use some of their rows only."""
        return tuple(plate for plate in self.plates if plate.used != plate.size)

    @property
    def enumeration_dim(self) -> int:
        """First batch dimension left of all plates, where discrete sites are laid out."""
        return min((dim for site in self.sites for _, dim, _ in site.plates), default=0) - 1


def listed(names: Any) -> str:
    """Names for a message."""
    return ", ".join(repr(name) for name in names)


def missing_values(structure: Structure, missing: list[str], values: Any) -> str:
    """Message about latent sites without a value."""
    return (
        f"values of {listed(missing)} are missing: model {structure.name} has the latent sites "
        f"{listed(structure.named('latent'))}; got {listed(values) or 'none'}"
    )


# Judgement ------------------------------------------------------------------------------------


def refuse(structure: Structure) -> None:
    """Raise if the model has no density."""
    discrete = [site for site in structure.sites if site.kind == "discrete"]
    if discrete:
        _refuse_discrete(structure, discrete)
    if not structure.named("latent"):
        raise TargetError(
            f"model {structure.name} has no latent site: nothing to infer. Every sample site is "
            f"observed ({listed(structure.named('observed')) or 'there is none'})"
        )
    plates = [plate.name for plate in structure.plates]
    if clash := [name for name in [s.name for s in structure.sites] + plates if name in RESERVED]:
        raise TargetError(
            f"{listed(clash)}: ArviZ uses this name for a group or for a dimension of the draws; "
            "rename the site or plate"
        )
    for plate in structure.subsampled:
        local = [
            site.name
            for site in structure.sites
            if site.kind == "latent" and plate.name in {name for name, _, _ in site.plates}
        ]
        if local:
            raise TargetError(
                f"plate {plate.name!r} uses {plate.used} of {plate.size} rows and holds the latent "
                f"{listed(local)}: which rows these belong to changes with every draw. Remove "
                "subsample_size"
            )


def _refuse_discrete(structure: Structure, discrete: list[Site]) -> None:
    what = ", ".join(f"{site.name!r} ({site.distribution})" for site in discrete)
    by_hand = (
        "sum it out by hand (dist.MixtureSameFamily, or logsumexp over its states in "
        "numpyro.factor), or use a sampler of discrete states, such as a GFlowNet, on a target "
        "written for it"
    )
    if infinite := [site for site in discrete if not site.is_enumerable]:
        raise TargetError(
            f"discrete latent {what}: "
            + ", ".join(f"{site.name!r} has the support {site.support}" for site in infinite)
            + ", over which no finite sum runs. Truncate it to a Categorical, integrate it by "
            f"hand (Poisson and Gamma give dist.GammaPoisson), {by_hand}"
        )
    if importlib.util.find_spec("funsor") is None:
        raise TargetError(
            f"discrete latent {what}: a density on the reals cannot hold it. Install funsor "
            "(pip install funsor), and it is summed out exactly; or sample it: "
            f"ppl.from_numpyro_mixed(model, ...) with samplers.Gibbs; or {by_hand}"
        )
    if scaled := [s.name for s in structure.sites if s.kind == "latent" and s.is_scaled]:
        raise TargetError(
            f"discrete latent {what} is summed out by funsor, where handlers.scale around the "
            f"latent {listed(scaled)} would scale log-Jacobians too; remove the scale"
        )
    for site in structure.sites:
        dims = {dim for _, dim, _ in site.plates}
        for dim in range(-len(site.batch_shape), 0):
            leading = site.is_scanned and dim == -len(site.batch_shape)
            if site.batch_shape[dim] > 1 and dim not in dims and not leading:
                raise TargetError(
                    f"discrete latent {what} is summed out by funsor, which needs a numpyro.plate "
                    f"for every batch dimension; site {site.name!r} has batch shape "
                    f"{site.batch_shape} and none for dimension {dim}"
                )


def refuse_subsampled(structure: Structure) -> None:
    """Raise if some rows are all there is: nothing follows the rows of a plate."""
    if structure.subsampled and not structure.follows_rows:
        shares = ", ".join(
            f"{plate.used} of {plate.size} rows of plate {plate.name!r}"
            for plate in structure.subsampled
        )
        raise TargetError(
            f"model {structure.name} uses {shares}: a density needs all rows. Remove "
            "subsample_size. (A minibatch sampler can use the model as it is if one plate holds "
            "all observed sites and no latent one, and the data are indexed by its rows: "
            "`with numpyro.plate(...) as rows`, obs=y[rows].)"
        )


def no_simulation(structure: Structure) -> str:
    """Why data drawn from the observed sites are not those of the density; empty: they are."""
    if factors := structure.named("factor"):
        return (
            f"numpyro.factor {listed(factors)} is a term of the density from which nothing can be "
            "drawn. Write it as a numpyro.sample site with obs=, or give calibrate a model that "
            "draws the data (generator=)"
        )
    for site in structure.sites:
        if site.kind == "observed" and site.is_scaled:
            return (
                f"handlers.scale makes the density of site {site.name!r} another one than its "
                "distribution draws from. Remove the scale"
            )
        if site.kind == "observed" and _terms_beyond(site):
            return (
                f"site {site.name!r}: observations of shape {site.shape} meet a distribution of "
                f"batch shape {site.batch_shape}, which draws more of them. Align the axes"
            )
    return ""


def _terms_beyond(site: Site) -> int:
    """How many more terms than observations an observed site has."""
    rows = site.shape[: len(site.shape) - site.event_dim]
    return math.prod(np.broadcast_shapes(rows, site.batch_shape)) - math.prod(rows)


def warnings_of(structure: Structure) -> list[str]:
    """Return what a user should hear before anything runs."""
    found = []
    if not structure.named("observed", "factor"):
        found.append(
            f"model {structure.name} observes nothing: its posterior is its prior. Pass the data, "
            "and obs= in the sample statement of the data"
        )
    if structure.draws_keys:
        found.append(
            f"model {structure.name} calls numpyro.prng_key(): in a density this is one fixed key, "
            "the same noise at every position. Make the noise a latent site instead"
        )
    for site in structure.sites:
        rows = site.shape[: len(site.shape) - site.event_dim]
        terms = np.broadcast_shapes(rows, site.batch_shape)
        if site.kind == "observed" and math.prod(terms) > math.prod(rows) > 1:
            found.append(
                f"site {site.name!r}: observations of shape {site.shape} meet a distribution of "
                f"batch shape {site.batch_shape}, so that {math.prod(rows)} observations make "
                f"{math.prod(terms)} terms. If that is not meant, align the axes"
            )
    return found


def notes_of(structure: Structure) -> list[str]:
    """Return what a reader of the results should know."""
    notes = warnings_of(structure)
    if factors := structure.named("factor"):
        notes.append(f"factor {listed(factors)} counts as likelihood (see with_prior_factors)")
    if discrete := structure.named("discrete"):
        notes.append(f"discrete {listed(discrete)} is summed out exactly")
    for site in structure.sites:
        if site.kind != "latent":
            continue
        if site.support == "Circular":
            notes.append(
                f"site {site.name!r} is an angle, cut open at -pi and pi: a mode there is split in "
                "two (numpyro.infer.reparam.CircularReparam joins it), and its mean is no angle"
            )
        if site.name.endswith("_unobserved"):
            notes.append(
                f"site {site.name!r} imputes with obs_mask: {math.prod(site.shape)} latent numbers,"
                " those of observed entries without a prior and without meaning"
            )
        elif site.no_draw:
            notes.append(
                f"site {site.name!r}: {site.no_draw}; evidence and prior draws are undefined"
            )
    return notes


# Axes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labels:
    """Names of axes and of their entries. All labels are equal: new ones compile nothing anew."""

    coords: Mapping[str, np.ndarray] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels)

    def __hash__(self) -> int:
        return hash(Labels)


def axes_of(structure: Structure, labels: Labels) -> dict[str, list[str]]:
    """Names of the axes of every site that has values a user sees."""
    return {
        site.name: dims_of(site, labels.dims.get(site.name, ()))
        for site in structure.sites
        if site.kind in ("latent", "deterministic", "observed")
    }


def check_labels(structure: Structure, labels: Labels) -> None:
    """Raise unless every label names something and fits its axis."""
    axes = axes_of(structure, labels)
    if unknown := [name for name in labels.dims if name not in axes]:
        raise TargetError(
            f"dims: {listed(unknown)} is no site of model {structure.name}, which has "
            f"{listed(axes)}"
        )
    shapes = {site.name: site.shape for site in structure.sites}
    sizes = {
        dim: size
        for name, dims in axes.items()
        for dim, size in zip(dims, shapes[name], strict=True)
    }
    for name, entries in labels.coords.items():
        if name not in sizes:
            raise TargetError(
                f"coords: no axis is called {name!r}; model {structure.name} has the axes "
                f"{listed(sizes) or 'none'}. Name an axis with dims={{site: [{name!r}]}}"
            )
        if entries.shape != (sizes[name],):
            raise TargetError(
                f"coords: {name!r} has {sizes[name]} entries; got labels of shape {entries.shape}"
            )


def dims_of(site: Site, given: tuple[str, ...]) -> list[str]:
    """Names of the axes of a site; ``given`` names all of them, or those no plate has named."""
    names = [f"{site.name}_dim_{i}" for i in range(len(site.shape))]
    free = set(range(len(names)))
    shift = site.event_dim
    if site.kind == "deterministic":
        # Its event dimensions are not recorded: the first shift under which all plates fit.
        fits = (
            e
            for e in range(len(names))
            if all(
                len(names) - e + dim >= 0 and site.shape[len(names) - e + dim] == size
                for _, dim, size in site.plates
            )
        )
        shift = next(fits, len(names))
    for plate, dim, size in site.plates:
        axis = len(names) - shift + dim
        if axis >= 0 and site.shape[axis] == size:
            names[axis] = plate
            free.discard(axis)
    for axis, name in zip(
        range(len(names) - site.event_dim, len(names)), site.event_dims, strict=False
    ):
        names[axis] = name
        free.discard(axis)
    if not given:
        return names
    if len(given) == len(names):
        return list(given)
    if len(given) != len(free):
        raise TargetError(
            f"dims of {site.name!r}: its shape {site.shape} has {len(names)} axes, of which "
            f"{len(free)} have no name yet; got the names {given}"
        )
    for axis, name in zip(sorted(free), given, strict=True):
        names[axis] = name
    return names
