"""A NumPyro model as a target: log prior, log likelihood, constrain, predict.

    log p(x, y) = log p(x) + log p(y | x),   x = constrain(z)
    log_density(z) = log p(constrain(z)) + log |det d constrain / dz| + log p(y | constrain(z))

A position ``z`` is a dict from latent site to unconstrained array. One run of the model gives every
term, and terms are told apart by the site they come from, never by a scale put on observed sites
(NumPyro writes log-Jacobians as observed factors, so scaling those tempers the Jacobian as well).
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpyro import handlers
from numpyro.distributions import biject_to

from ppl import predictive, simulate
from ppl.energy import Energy, Position, TargetError
from ppl.prior import ModelPrior
from ppl.sites import JACOBIAN, FixedKey, Forget, Message, Rows, place, read_model, run
from ppl.structure import (
    Labels,
    Structure,
    axes_of,
    check_labels,
    listed,
    missing_values,
    no_simulation,
    notes_of,
    warnings_of,
)
from ppl.template import as_data, require_template

type Sites = dict[str, Array]


class Term(NamedTuple):
    """One term of a log-density: its site, what it is, the site's value, and the log-probability.

    ``kind`` is ``"prior"``, ``"log_jacobian"`` or ``"likelihood"``.
    """

    site: str
    kind: str
    value: Any
    log_prob: Any


class Program(Energy):
    """A NumPyro model with its data, on its unconstrained space. Made by `from_numpyro`.

    What it offers beyond the density depends on the model: `offers` lists it, `refuse` says why
    something is missing, `notes` says what a reader of the results should know.

    Prior and likelihood are split by site. Observed sites and ``numpyro.factor`` are likelihood
    (move some to the prior with `with_prior_factors`); all else is prior. Discrete latent sites are
    summed out where funsor is installed. ``handlers.mask`` takes an element out with its
    log-Jacobian, as in NumPyro; ``handlers.scale`` scales log-probabilities but not the
    log-Jacobian, which belongs to the space (NumPyro's potential energy scales both).
    """

    template: dict[str, jax.ShapeDtypeStruct]
    model: Callable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    structure: Structure = eqx.field(static=True)
    labels: Labels = eqx.field(static=True)

    # The density ------------------------------------------------------------------------------

    def log_density(self, position: Position) -> Float[Array, ""]:
        if self.is_enumerated:
            return self._enumerated(position, hide=())
        log_prior, log_likelihood = self.log_parts(position)
        return log_prior + log_likelihood

    def log_parts(self, position: Position) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Log prior, log-Jacobian included, and log likelihood, from one run of the model.

        Where discrete sites are summed out the two are ``log p(x)`` and ``log p(y | x)``, both
        after summation, from two runs.
        """
        self._require("log_parts")
        if self.is_enumerated:
            log_prior = self._enumerated(position, hide=self._likelihood_names)
            return log_prior, self.log_density(position) - log_prior
        terms = self._terms(self._run_at(position))
        return _total(terms, "prior", "log_jacobian"), _total(terms, "likelihood")

    def log_prior(self, position: Position) -> Float[Array, ""]:
        """Log prior density of a position, log-Jacobian included."""
        if not self.structure.subsampled:
            return self.log_parts(position)[0]
        assert self.structure.row_plate is not None
        some_rows = jnp.arange(self.structure.row_plate.used)
        terms = self._terms(self._run_at(position, self._rows(some_rows)))
        return _total(terms, "prior", "log_jacobian")

    def log_likelihood(self, position: Position) -> Float[Array, ""]:
        """Log likelihood of a position."""
        return self.log_parts(position)[1]

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        handler = self._any_rows()
        return _total(self._terms(self._run_at(position, *handler)), "log_jacobian")

    def pointwise_log_likelihood(self, position: Position) -> Sites:
        """Log likelihood of every row, by observed site; the sum over all is `log_likelihood`.

        A factor counted as likelihood appears under its own name.
        """
        self._require("pointwise_log_likelihood")
        return self._pointwise(self._run_at(position))

    @property
    def num_data(self) -> int:
        """Number of rows of the plate that holds all observed sites."""
        self._require("log_likelihood_at")
        assert self.structure.row_plate is not None
        return self.structure.row_plate.size

    def log_likelihood_at(
        self, position: Position, indices: Int[Array, " rows"]
    ) -> Float[Array, ""]:
        """Log likelihood of some rows: their sum, not scaled up to the data.

        Multiply by ``num_data / len(indices)`` for an unbiased estimate of the log likelihood.

        A model that indexes its data by the plate (``with numpyro.plate("N", N) as rows``,
        ``obs=y[rows]``, or ``numpyro.subsample``) touches these rows only. Any other model is
        evaluated in full and the rows are taken: exact, but no cheaper than `log_likelihood`.
        """
        self._require("log_likelihood_at")
        plate = self.structure.row_plate
        assert plate is not None
        if self.structure.follows_rows and len(indices) < plate.size:
            terms = self._terms(self._run_at(position, self._rows(indices)))
            # NumPyro's plate scaled every site by size / rows.
            return _total(terms, "likelihood") * (len(indices) / plate.size)
        if self.structure.subsampled:
            raise TargetError(
                f"log_likelihood_at takes fewer rows than the {plate.size} of plate "
                f"{plate.name!r}; got {len(indices)}. For all rows remove subsample_size"
            )
        dims = {
            s.name: [d for n, d, _ in s.plates if n == plate.name] for s in self.structure.sites
        }
        rows = [
            jnp.sum(jnp.take(log_prob, indices, axis=dims[name][0]))
            for name, log_prob in self.pointwise_log_likelihood(position).items()
        ]
        return sum(rows[1:], start=rows[0])

    @property
    def prior(self) -> ModelPrior:
        """What the model says before it sees its data, as a target of its own."""
        return ModelPrior(self)  # pyright: ignore[reportCallIssue]

    # Spaces -----------------------------------------------------------------------------------

    def constrain(self, position: Position) -> Sites:
        """Values of the latent sites, in model order."""
        sites = self._run_at(position, *self._any_rows())
        return {name: sites[name]["value"] for name in self.latent_names}

    def unconstrain(self, values: Mapping[str, Any]) -> Position:
        """Position of the values of the latent sites; other entries are not looked at."""
        return self._position(self._run_with(values))

    def outputs(self, position: Position) -> OrderedDict[str, Array]:
        """Values of latent and deterministic sites, in model order, which JAX keeps.

        Where discrete sites are summed out a deterministic site may have no value, so these are
        left out.
        """
        kinds = ("latent",) if self.is_enumerated else ("latent", "deterministic")
        sites = self._run_at(position, *self._any_rows())
        # JAX sorts the names of a dict, but not those of an OrderedDict.
        return OrderedDict((name, sites[name]["value"]) for name in self.structure.named(*kinds))

    # Draws ------------------------------------------------------------------------------------

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` positions from the prior; the data are not looked at.

        A value that rounding put on the edge of its support is moved to the nearest finite
        position.
        """
        self._require("sample")
        return predictive.prior_positions(self, rng_key, n)

    def prior_predictive(self, rng_key: PRNGKeyArray, n: int) -> Sites:
        """Draw ``n`` times from the joint law of all sites, observed ones included.

        Entries ``latent_names``, deterministic sites and ``observed_names`` belong together, draw
        by draw. A model that computes with its data (an autoregression) predicts one step ahead.
        """
        self._require("prior_predictive")
        return predictive.prior_draws(self, rng_key, n)

    def predict(self, rng_key: PRNGKeyArray, values: Mapping[str, Any]) -> Sites:
        """Draw the observed sites anew, given the values of the latent sites of one draw.

        Discrete latent sites that a density sums out are drawn given the others, not given the
        data: this predicts new rows.
        """
        self._require("posterior_predictive")
        forget = Forget(frozenset(self.observed_names))
        sites = self._run_with(values, handlers.seed(rng_seed=rng_key), forget)
        return {name: sites[name]["value"] for name in self.observed_names}

    def posterior_predictive(
        self, rng_key: PRNGKeyArray, values: Mapping[str, Any], *, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Draw the observed sites anew for every draw, in batches moved to the host.

        Parameters
        ----------
        rng_key
            Key; draw ``i`` uses ``fold_in(rng_key, i)``, whatever the batch size.
        values
            Latent sites with leading axes ``(chain, draw)``; other entries are not looked at.
        batch_size
            Draws computed at once. By default as many as hold about four million numbers.
        """
        self._require("posterior_predictive")
        return predictive.in_batches(predictive.data, self, rng_key, values, batch_size)

    def log_likelihood_of_draws(
        self, values: Mapping[str, Any], *, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """`pointwise_log_likelihood` of every draw ``(chain, draw)``, in batches as above."""
        self._require("pointwise_log_likelihood")
        return predictive.in_batches(predictive.pointwise, self, None, values, batch_size)

    def simulate(self, rng_key: PRNGKeyArray) -> tuple[Position, "Program"]:
        """Draw from the prior, and return the position with this model of data drawn given it.

        Data that are an argument as it is (``obs=y``) are replaced wherever the model uses them;
        see `ppl.simulate` for others.
        """
        self._require("simulate")
        return simulate.simulate(self, rng_key)

    def replicate(self, rng_key: PRNGKeyArray, position: Position) -> Energy:
        """Return this model of its data and a replication of them, drawn given ``position``."""
        self._require("replicate")
        return simulate.replicate(self, rng_key, position)

    # Names ------------------------------------------------------------------------------------

    @property
    def latent_names(self) -> tuple[str, ...]:
        """Latent sites, in model order."""
        return self.structure.named("latent")

    @property
    def observed_names(self) -> tuple[str, ...]:
        """Observed sites that are data, in model order."""
        return self.structure.named("observed")

    @property
    def factor_names(self) -> tuple[str, ...]:
        """``numpyro.factor`` sites, in model order."""
        return self.structure.named("factor")

    @property
    def observes_nothing(self) -> bool:
        """Whether the posterior is the prior."""
        return not self._likelihood_names

    @property
    def is_enumerated(self) -> bool:
        """Whether discrete latent sites are summed out."""
        return bool(self.structure.named("discrete"))

    @property
    def observed_data(self) -> dict[str, np.ndarray]:
        """Data by observed site."""
        data = _observed(self)
        return {name: np.asarray(data[name]) for name in self.observed_names}

    def with_prior_factors(self, *names: str) -> "Program":
        """Return this program with these factors (or observed sites) counted as prior.

        The log-density stays the same; `log_parts`, and so every tempered path, changes. Prior
        draws then no longer follow the prior density, and `sample` is not offered.
        """
        known = self.factor_names + self.observed_names
        if unknown := [name for name in names if name not in known]:
            raise TargetError(
                f"with_prior_factors: {listed(unknown)} is no factor and no observed site of "
                f"model {self.structure.name}, which has {listed(known) or 'none'}"
            )
        names += self.structure.named("auxiliary")
        return replace(self, structure=read_model(self.model, self.args, self.kwargs, names))

    def with_coords(
        self,
        coords: Mapping[str, Sequence | np.ndarray] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> "Program":
        """Return this program with names for the axes of its sites and for their entries.

        Parameters
        ----------
        coords
            Labels of the entries of an axis: ``{"school": ["A", "B", ...]}``.
        dims
            Names of the axes of a site: all of them, or only those that no plate has named.
        """
        labels = Labels(
            {name: np.asarray(entries) for name, entries in (coords or {}).items()},
            {name: tuple(names) for name, names in (dims or {}).items()},
        )
        check_labels(self.structure, labels)
        return replace(self, labels=labels)

    @property
    def dims(self) -> dict[str, list[str]]:
        """Names of the axes of every latent, deterministic and observed site.

        An axis made by a plate carries its name; others come from ``infer={"event_dims": ...}``
        or `with_coords`, or are called ``{site}_dim_{i}`` as ArviZ does.
        """
        return axes_of(self.structure, self.labels)

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the entries of named axes: of plates, and those given."""
        return {p.name: np.arange(p.size) for p in self.structure.plates} | dict(self.labels.coords)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know about this model."""
        return tuple(notes_of(self.structure))

    # Capabilities -----------------------------------------------------------------------------

    @property
    def offers(self) -> frozenset[str]:
        able = "log_density log_parts log_prior log_likelihood log_likelihood_at sample "
        able += "prior_predictive posterior_predictive pointwise_log_likelihood simulate replicate"
        return self._with_gradient(*(name for name in able.split() if not self._lacks(name)))

    def refuse(self, capability: str) -> str:
        return self._lacks(capability) or Energy.refuse(self, capability)

    def _lacks(self, capability: str) -> str:
        """Why this is not offered; empty when it is."""
        structure, model = self.structure, f"model {self.structure.name}"
        if structure.subsampled and capability not in ("log_likelihood_at", "log_prior"):
            plate = structure.subsampled[0]
            return (
                f"{model}: plate {plate.name!r} uses {plate.used} of {plate.size} rows; densities "
                "need all rows. Remove subsample_size, or use a minibatch sampler such as SGLD"
            )
        if capability in ("sample", "prior_predictive", "simulate"):
            for site in structure.sites:
                if site.no_draw:
                    return (
                        f"site {site.name!r} of {model} has no proper prior to draw from "
                        f"({site.no_draw}): the evidence, prior predictive draws and "
                        "simulation-based calibration are undefined. Give it a proper prior, or "
                        "use MCMC, which needs none"
                    )
            if terms := structure.named("auxiliary"):
                return (
                    f"{model} counts {listed(terms)} as prior: drawing its sites one by one does "
                    "not draw from that prior"
                )
        if capability in ("simulate", "replicate") and (reason := no_simulation(structure)):
            return f"{model} cannot simulate its data: {reason}"
        if capability in ("prior_predictive", "posterior_predictive", "simulate", "replicate"):
            if not self.observed_names:
                return f"{model} observes no sample site, so there is nothing to predict"
            scanned = [s.name for s in structure.sites if s.is_scanned and s.kind == "observed"]
            if scanned:
                return (
                    f"{listed(scanned)} of {model} is observed inside a NumPyro scan, where data "
                    "cannot be drawn anew; use numpyro.infer.Predictive with a model that takes "
                    "no data"
                )
        if capability in ("pointwise_log_likelihood", "log_likelihood_at") and self.is_enumerated:
            return (
                f"{model} sums out {listed(structure.named('discrete'))}, which couples the rows "
                "of the data"
            )
        if capability == "pointwise_log_likelihood" and not self._likelihood_names:
            return f"{model} observes nothing"
        if capability == "log_likelihood_at":
            if structure.row_plate is None:
                return (
                    f"minibatches of {model} need exactly one numpyro.plate that holds every "
                    f"observed site; its plates are {listed(p.name for p in structure.plates)}"
                )
        return ""

    def _require(self, capability: str) -> None:
        if reason := self._lacks(capability):
            raise TargetError(reason)

    # Errors -----------------------------------------------------------------------------------

    def explain(self, position: Position) -> list[Term]:
        """Every term of the log-density at one position, in model order, as numbers."""
        require_template(position, self.template, "position")
        self._require("log_density")
        kinds, numbers = _explain(self, position)
        return [Term(*kind, *map(np.asarray, n)) for kind, n in zip(kinds, numbers, strict=True)]

    # Runs of the model ------------------------------------------------------------------------

    def _run_at(self, position: Position, *inner: Any) -> dict[str, Message]:
        placed = handlers.substitute(substitute_fn=partial(place, position))
        return run(self.model, self.args, self.kwargs, placed, *self._keys(), *inner).sites

    def _run_with(self, values: Mapping[str, Any], *inner: Any) -> dict[str, Message]:
        if missing := [name for name in self.latent_names if name not in values]:
            raise TargetError(missing_values(self.structure, missing, values))
        known = handlers.substitute(data={n: jnp.asarray(values[n]) for n in self.latent_names})
        inner = inner or (*self._keys(), *self._any_rows())
        return run(self.model, self.args, self.kwargs, known, *inner).sites

    def _keys(self) -> tuple[Any, ...]:
        # A discrete site must have some value where it plays no part.
        seed = (handlers.seed(rng_seed=random.key(0)),) if self.is_enumerated else ()
        return (*seed, FixedKey())

    def _enumerated(self, position: Position, hide: tuple[str, ...]) -> Float[Array, ""]:
        from numpyro.contrib.funsor import config_enumerate, enum, log_density

        visible = handlers.block(self.model, hide=list(hide))
        summed = FixedKey(enum(config_enumerate(visible), self.structure.enumeration_dim))
        placed = handlers.substitute(summed, substitute_fn=partial(place, position))
        return jnp.asarray(log_density(placed, self.args, self.kwargs, {})[0])

    def _rows(self, indices: Array) -> Rows:
        assert self.structure.row_plate is not None
        return Rows(self.structure.row_plate.name, indices)

    def _any_rows(self) -> tuple[Rows, ...]:
        """Rows for a run in which data play no part."""
        if not self.structure.subsampled:
            return ()
        assert self.structure.row_plate is not None
        return (self._rows(jnp.arange(self.structure.row_plate.size)),)

    @property
    def _likelihood_names(self) -> tuple[str, ...]:
        return self.structure.named("observed", "factor")

    def _terms(self, sites: dict[str, Message]) -> list[Term]:
        likelihood = self._likelihood_names
        terms = []
        for name, site in sites.items():
            if site["type"] != "sample":
                continue
            log_prob = site["fn"].log_prob(site["value"])
            if JACOBIAN in site["infer"]:
                # A scale belongs to a probability; the log-Jacobian belongs to the space.
                latent = site["infer"][JACOBIAN]
                terms.append(Term(latent, "log_jacobian", sites[latent]["value"], log_prob))
                continue
            if site["scale"] is not None:
                log_prob = site["scale"] * log_prob
            kind = "likelihood" if name in likelihood else "prior"
            terms.append(Term(name, kind, site["value"], log_prob))
        return terms

    def _pointwise(self, sites: dict[str, Message]) -> Sites:
        terms = self._terms(sites)
        return {term.site: term.log_prob for term in terms if term.kind == "likelihood"}

    def _position(self, sites: dict[str, Message]) -> Position:
        return {
            name: biject_to(sites[name]["fn"].support).inv(sites[name]["value"])
            for name in self.latent_names
        }


def from_numpyro(model: Any, /, *args: Any, **kwargs: Any) -> Program:
    """Make a target of a NumPyro model and its arguments.

    Parameters
    ----------
    model
        Function with NumPyro sites. Pass data as its arguments: what the function closes over is
        compiled in as a constant.
    args, kwargs
        Arguments of the model. Arrays, floats and lists of numbers are traced, so that new data of
        equal shape compile nothing; ints, bools, strings and None are static.

    Returns
    -------
    Program

    Raises
    ------
    TargetError
        If the arguments do not fit the model, if it fails, or if it has no density: no latent
        site, discrete latent sites that cannot be summed out, ``numpyro.param``, a Delta, a name
        that is used twice or that ArviZ uses.

    Warns
    -----
    UserWarning
        If the model observes nothing, draws random numbers of its own, or broadcasts observations.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ppl
    >>> def model(y):
    ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    ...     with numpyro.plate("row", len(y)):
    ...         numpyro.sample("y", dist.Normal(0.0, scale), obs=y)
    >>> target = ppl.from_numpyro(model, jnp.array([0.5, -1.0]))
    >>> target.template
    {'scale': ShapeDtypeStruct(shape=(), dtype=float32)}
    >>> log_prior, log_likelihood = target.log_parts({"scale": jnp.array(0.0)})
    """
    data_args, data_kwargs = as_data(args), as_data(kwargs)
    structure = read_model(model, data_args, data_kwargs)
    for warning in warnings_of(structure):
        warnings.warn(warning, UserWarning, stacklevel=2)
    return Program(
        template=_template(structure),
        model=model,
        args=data_args,
        kwargs=data_kwargs,
        structure=structure,
        labels=Labels(),
    )


def _template(structure: Structure) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        site.name: jax.ShapeDtypeStruct(site.position_shape, jnp.result_type(float))
        for site in structure.sites
        if site.kind == "latent"
    }


@eqx.filter_jit
def _observed(program: Program) -> Sites:
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in program.template.items()}
    sites = program._run_at(zeros, *program._any_rows())
    return {name: jnp.asarray(sites[name]["value"]) for name in program.observed_names}


@eqx.filter_jit
def _explain(program: Program, position: Position) -> tuple[list, list]:
    if program.is_enumerated:
        log_prior, log_likelihood = program.log_parts(position)
        everywhere = "all sites"
        terms = [
            Term(everywhere, "prior", jnp.nan, log_prior),
            Term(everywhere, "likelihood", jnp.nan, log_likelihood),
        ]
    else:
        terms = program._terms(program._run_at(position))
    return [t[:2] for t in terms], [(t.value, jnp.sum(t.log_prob)) for t in terms]


def _total(terms: list[Term], *kinds: str) -> Float[Array, ""]:
    sums = [jnp.sum(term.log_prob) for term in terms if term.kind in kinds]
    return sum(sums, start=jnp.zeros((), jnp.result_type(float)))
