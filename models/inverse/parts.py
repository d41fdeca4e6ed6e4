"""What the posterior of a mixture is, whatever its components are: they are weighed by the data."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from models.targets.known import Known


class PosteriorOfParts(Known):
    """A posterior whose components keep their kind, each weighed by its evidence.

    ``log_density`` is that of `ppl.posterior`; its ``log_normalizer`` is therefore the log-evidence
    and the constant of the prior.
    """

    prior: eqx.AbstractVar[Any]

    @property
    @abstractmethod
    def _log_parts(self) -> Float[Array, " k"]:
        """Log share of each component, times its evidence."""

    @property
    def offers(self) -> frozenset[str]:
        return super().offers | {"log_likelihood"}

    @property
    def observes_nothing(self) -> bool:
        """Whether ``sample`` draws from the target: it does, data and all."""
        return True

    @property
    def template(self) -> jax.ShapeDtypeStruct:
        return self.prior.template

    @property
    def log_shares(self) -> Float[Array, " k"]:
        """Logarithms of the weights of the components, given the data."""
        log_parts = self._log_parts
        return log_parts - logsumexp(log_parts)

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """Log p(y), of the normalized prior."""
        return logsumexp(self._log_parts)

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        return self.log_evidence + self.prior.log_normalizer
