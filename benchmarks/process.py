"""A Gaussian process over configurations, small and without an optimiser.

The kernel is Matérn 5/2 with a length for each column of x. Lengths and the ratio of noise to signal are not fitted: a
fixed number of draws from their priors is weighted by their likelihood, in which the coefficients of the mean (flat
prior) and the scale of everything (prior 1 / scale) are integrated out (Rasmussen and Williams 2006, sections 2.7 and
5.2). So few observations, where a single best fit is often wrong by far, give a broad mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS = 64


@dataclass(frozen=True)
class Prior:
    """Where lengths and noise are drawn from; both are log-normal.

    Attributes:
        length, length_spread: median of a length in units of x, and standard deviation of its logarithm.
        noise, noise_spread: median of the noise's variance over the signal's, and of its logarithm.
    """

    length: float = 0.8
    length_spread: float = 0.8
    noise: float = 0.4
    noise_spread: float = 1.2


@dataclass(frozen=True)
class Posterior:
    """A mixture of `DRAWS` multivariate t-distributions for the function's values at `at`, as means and covariances.

    Attributes:
        weights: (draws,), their sum is 1.
        means: (draws, points).
        covariances: (draws, points, points), those of the function without noise.
        freedom: degrees of freedom.
    """

    weights: Floats
    means: Floats
    covariances: Floats
    freedom: int

    @property
    def mean(self) -> Floats:
        """(points,)."""
        return self.weights @ self.means

    @property
    def deviation(self) -> Floats:
        """Standard deviation of each point, (points,)."""
        variances = np.diagonal(self.covariances, axis1=1, axis2=2)
        return np.sqrt(self.weights @ (variances + self.means**2) - self.mean**2)


def matern(x: Floats, z: Floats, lengths: Floats) -> Floats:
    """Matérn 5/2 of rows of x (n, d) and z (m, d) for each row of lengths (draws, d): (draws, n, m)."""
    scaled = ((x[:, None] - z[None]) ** 2).reshape(-1, x.shape[1]) @ (1 / lengths**2).T
    r = np.sqrt(5 * scaled.T.reshape(len(lengths), len(x), len(z)))
    found: Floats = (1 + r + r**2 / 3) * np.exp(-r)
    return found


def posterior(
    x: Floats,
    y: Floats,
    at: Floats,
    *,
    prior: Prior | None = None,
    noise: Floats | None = None,
    basis: tuple[Floats, Floats] | None = None,
    draws: int = DRAWS,
) -> Posterior:
    """What observations say of the function's values elsewhere.

    Args:
        x: (n, d), configurations observed.
        y: (n,), what was observed, with noise.
        at: (m, d), where the values are wanted.
        prior: of lengths and noise.
        noise: (n,), relative variances of the observations' noise; None: all alike.
        basis: functions whose sum is the mean, at x (n, k) and at `at` (m, k); None: a constant.
        draws: number of draws from the prior.
    """
    prior = prior or Prior()
    n, d = x.shape
    rng = np.random.default_rng(0)
    lengths = prior.length * np.exp(prior.length_spread * rng.standard_normal((draws, d)))
    ratios = prior.noise * np.exp(prior.noise_spread * rng.standard_normal(draws))
    h, h_at = basis or (np.ones((n, 1)), np.ones((len(at), 1)))
    relative = np.ones(n) if noise is None else noise
    k = matern(x, x, lengths) + ratios[:, None, None] * np.diag(relative)
    cross, own = matern(x, at, lengths), matern(at, at, lengths)
    lower = np.linalg.cholesky(k + 1e-9 * np.eye(n))
    solved = np.linalg.solve(lower, np.concatenate([np.broadcast_to(h, (draws, *h.shape)), cross], axis=2))
    u = np.linalg.solve(lower, np.broadcast_to(y[:, None], (draws, n, 1)))
    a, c = solved[:, :, : h.shape[1]], solved[:, :, h.shape[1] :]
    inner = a.transpose(0, 2, 1) @ a  # (draws, k, k)
    beta = np.linalg.solve(inner, a.transpose(0, 2, 1) @ u)
    left = u - a @ beta
    freedom = max(n - h.shape[1], 1)
    squares = (left**2).sum(axis=(1, 2))
    scale = np.maximum(squares / freedom, 1e-12)
    log_likelihood = (
        -np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
        - 0.5 * np.linalg.slogdet(inner)[1]
        - 0.5 * freedom * np.log(scale)
    )
    weights = np.exp(log_likelihood - log_likelihood.max())
    rest = h_at.T[None] - a.transpose(0, 2, 1) @ c  # (draws, k, m)
    means = (h_at @ beta + c.transpose(0, 2, 1) @ left)[:, :, 0]
    covariances = own - c.transpose(0, 2, 1) @ c + rest.transpose(0, 2, 1) @ np.linalg.solve(inner, rest)
    return Posterior(weights / weights.sum(), means, scale[:, None, None] * covariances, freedom)
