"""What the posterior of a mixture is, whatever its components are: they are weighed by the data."""

from abc import abstractmethod

from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from models.inverse.posterior import ExactPosterior


class PosteriorOfParts(ExactPosterior):
    """A posterior whose components keep their kind, each weighed by its evidence."""

    @property
    @abstractmethod
    def _log_parts(self) -> Float[Array, " k"]:
        """Log share of each component, times its evidence."""

    @property
    def log_shares(self) -> Float[Array, " k"]:
        """Logarithms of the weights of the components, given the data."""
        log_parts = self._log_parts
        return log_parts - logsumexp(log_parts)

    @property
    def log_evidence(self) -> Float[Array, ""]:
        return logsumexp(self._log_parts)
