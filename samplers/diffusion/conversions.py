"""What a network may predict, and what each says about the others: exact identities.

    x = alpha x_0 + sigma eps,    D = E[x_0 | x],    a' and s' the rates of alpha and sigma

    noise      eps = (x - alpha D) / sigma          D = (x - sigma eps) / alpha
    score      grad log p = (alpha D - x) / sigma^2   D = (x + sigma^2 score) / alpha
    v          v = alpha eps - sigma D              D = (alpha x - sigma v) / (alpha^2 + sigma^2)
    velocity   u = a' D + s' eps                    D = (sigma u - s' x) / (a' sigma - alpha s')

Each class wraps a user's function of that kind, ``fn(x, t)`` or ``fn(x, t, condition)`` for one
point x, so that it becomes a denoiser. ``output`` is linear in the denoised value: applied to x_0
in place of D it is what the function is trained to return.

References
----------
.. [1] Salimans and Ho, "Progressive distillation for fast sampling of diffusion models", ICLR
   2022, arXiv:2202.00512. Appendix D: v.
.. [2] Karras et al., "Elucidating the design space of diffusion-based generative models", NeurIPS
   2022, arXiv:2206.00364. Appendix B.3: the score.
.. [3] Lipman et al., "Flow matching for generative modeling", ICLR 2023, arXiv:2210.02747.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx

from samplers.diffusion.paths import Level


class Prediction(eqx.Module):
    """A function of a noisy point, and what it predicts."""

    relative: ClassVar[bool] = False  # a position, which moves along with the path's center

    fn: Callable[..., Any]

    @abstractmethod
    def denoised(self, output: Any, x: Any, level: Level) -> Any:
        """D, from what the function returned at x."""

    @abstractmethod
    def output(self, denoised: Any, x: Any, level: Level) -> Any:
        """What the function would return at x, from D."""


class PredictsDenoised(Prediction):
    """``fn`` returns D itself, the mean of the data given the noisy point ("x0")."""

    relative: ClassVar[bool] = True

    def denoised(self, output: Any, x: Any, level: Level) -> Any:
        return output

    def output(self, denoised: Any, x: Any, level: Level) -> Any:
        return denoised


class PredictsNoise(Prediction):
    """``fn`` returns the noise ("epsilon")."""

    def denoised(self, output: Any, x: Any, level: Level) -> Any:
        return (x - level.sigma * output) / level.alpha

    def output(self, denoised: Any, x: Any, level: Level) -> Any:
        return (x - level.alpha * denoised) / level.sigma


class PredictsScore(Prediction):
    """``fn`` returns the gradient of the log-density of the noisy law."""

    def denoised(self, output: Any, x: Any, level: Level) -> Any:
        return (x + level.sigma**2 * output) / level.alpha

    def output(self, denoised: Any, x: Any, level: Level) -> Any:
        return (level.alpha * denoised - x) / level.sigma**2


class PredictsV(Prediction):
    """``fn`` returns v, alpha times the noise less sigma times the data."""

    def denoised(self, output: Any, x: Any, level: Level) -> Any:
        return (level.alpha * x - level.sigma * output) / (level.alpha**2 + level.sigma**2)

    def output(self, denoised: Any, x: Any, level: Level) -> Any:
        norm = level.alpha**2 + level.sigma**2
        return (level.alpha * x - norm * denoised) / level.sigma


class PredictsVelocity(Prediction):
    """``fn`` returns the velocity of the probability flow, dx/dt; eps - x_0 on `StraightFlow`."""

    def denoised(self, output: Any, x: Any, level: Level) -> Any:
        wronskian = level.alpha_rate * level.sigma - level.alpha * level.sigma_rate
        return (level.sigma * output - level.sigma_rate * x) / wronskian

    def output(self, denoised: Any, x: Any, level: Level) -> Any:
        noise = (x - level.alpha * denoised) / level.sigma
        return level.alpha_rate * denoised + level.sigma_rate * noise
