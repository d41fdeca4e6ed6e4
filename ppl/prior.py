"""The prior of a NumPyro model as a target of its own."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ppl.energy import Energy, Position, Values
from ppl.template import float_dtype


class ModelPrior(Energy):
    """What a model says before it sees its data: `Program.prior`.

    It can be sampled exactly where every prior of the model is proper; its density is then
    normalized. It is on the same positions as the model, with the same names.
    """

    program: Any

    @property
    def template(self) -> PyTree:
        return self.program.template

    @property
    def offers(self) -> frozenset[str]:
        exact = ("sample", "log_normalizer") if "sample" in self.program.offers else ()
        dense = ("log_density",) if "log_prior" in self.program.offers else ()
        return self._with_gradient(*dense, *exact)

    def refuse(self, capability: str) -> str:
        lacking = {"log_density": "log_prior", "gradient": "log_prior", "log_normalizer": "sample"}
        return self.program.refuse(lacking.get(capability, capability))

    def log_density(self, position: Position) -> Float[Array, ""]:
        return self.program.log_prior(position)

    @property
    def log_normalizer(self) -> Float[Array, ""]:
        """Zero: the density is normalized."""
        return jnp.zeros((), float_dtype(self.template))

    def sample(self, rng_key: PRNGKeyArray, n: int) -> Position:
        """Draw ``n`` exact positions."""
        return self.program.sample(rng_key, n)

    def constrain(self, position: Position) -> Values:
        return self.program.constrain(position)

    def unconstrain(self, values: Values) -> Position:
        return self.program.unconstrain(values)

    def log_jacobian(self, position: Position) -> Float[Array, ""]:
        return self.program.log_jacobian(position)

    def outputs(self, position: Position) -> dict[str, Array]:
        return self.program.outputs(position)

    @property
    def dims(self) -> dict[str, list[str]]:
        """Names of axes, as the model has them."""
        return self.program.dims

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Labels of the entries of named axes, as the model has them."""
        return self.program.coords
