"""Define a target once, as an energy; run any sampler on it; judge the draws.

Names are resolved on first use, so that ``import ppl`` costs little more than JAX and NumPyro.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl import adapters as adapters
    from ppl import diagnostics as diagnostics
    from ppl import environment as environment
    from ppl.algebra import posterior as posterior
    from ppl.algebra import product as product
    from ppl.algebra import stack as stack
    from ppl.algebra import tempered as tempered
    from ppl.algebra import tilt as tilt
    from ppl.bayes_factor import BayesFactor as BayesFactor
    from ppl.bayes_factor import bayes_factor as bayes_factor
    from ppl.calibrate import calibrate as calibrate
    from ppl.compare import compare as compare
    from ppl.diagnostics.loo import loo as loo
    from ppl.draws import Draws as Draws
    from ppl.draws import Estimate as Estimate
    from ppl.draws import load as load
    from ppl.energy import Energy as Energy
    from ppl.energy import Prior as Prior
    from ppl.energy import TargetError as TargetError
    from ppl.energy import from_distribution as from_distribution
    from ppl.energy import from_energy as from_energy
    from ppl.energy import from_log_density as from_log_density
    from ppl.energy import from_samples as from_samples
    from ppl.inference import sample as sample
    from ppl.inference import sample_batch as sample_batch
    from ppl.linear_gaussian import LinearGaussian as LinearGaussian
    from ppl.mixed import from_numpyro_mixed as from_numpyro_mixed
    from ppl.predict import predict as predict
    from ppl.program import from_numpyro as from_numpyro
    from ppl.proximal import composite as composite
    from ppl.reference import reference as reference
    from ppl.report.page import report as report
    from ppl.sampler import DirectSampler as DirectSampler
    from ppl.sampler import LearnedSampler as LearnedSampler
    from ppl.sampler import MarkovKernel as MarkovKernel
    from ppl.sampler import ParticleSampler as ParticleSampler
    from ppl.sampler import load_sampler as load_sampler
    from ppl.sequence import SequenceModel as SequenceModel
    from ppl.state_space import StateSpaceModel as StateSpaceModel
    from ppl.state_space_posterior import StateSpacePosterior as StateSpacePosterior
    from ppl.stopping import converged as converged
    from ppl.stopping import elapsed as elapsed
    from ppl.stopping import evaluations as evaluations

_HOMES = {
    "ppl.algebra": (
        "posterior",
        "product",
        "stack",
        "tempered",
        "tilt",
    ),
    "ppl.bayes_factor": ("BayesFactor", "bayes_factor"),
    "ppl.calibrate": ("calibrate",),
    "ppl.compare": ("compare",),
    "ppl.diagnostics.loo": ("loo",),
    "ppl.draws": ("Draws", "Estimate", "load"),
    "ppl.energy": (
        "Energy",
        "Prior",
        "TargetError",
        "from_distribution",
        "from_energy",
        "from_log_density",
        "from_samples",
    ),
    "ppl.inference": ("sample", "sample_batch"),
    "ppl.linear_gaussian": ("LinearGaussian",),
    "ppl.mixed": ("from_numpyro_mixed",),
    "ppl.predict": ("predict",),
    "ppl.program": ("from_numpyro",),
    "ppl.proximal": ("composite",),
    "ppl.reference": ("reference",),
    "ppl.report.page": ("report",),
    "ppl.sampler": (
        "DirectSampler",
        "LearnedSampler",
        "MarkovKernel",
        "ParticleSampler",
        "load_sampler",
    ),
    "ppl.sequence": ("SequenceModel",),
    "ppl.state_space": ("StateSpaceModel",),
    "ppl.state_space_posterior": ("StateSpacePosterior",),
    "ppl.stopping": ("converged", "elapsed", "evaluations"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = import_module(_HOME[name])
        # A module of the function's own name is called like it, and is what an import leaves here.
        if _HOME[name] != f"ppl.{name}":
            value = getattr(value, name)
        globals()[name] = value
        return value
    if name == "__version__":
        return metadata.version("ppl")
    if name in ("adapters", "diagnostics", "environment", "sharding", "weights"):
        return import_module(f"ppl.{name}")
    raise AttributeError(f"module 'ppl' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "adapters", "diagnostics"]
