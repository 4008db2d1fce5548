"""Is the chain healthy? Effective sample size and split R-hat of scalar chain statistics."""

import math

import torch
from torch import Tensor

from dnet_lib.errors import ShapeError


def split_rhat(chains: Tensor) -> float:
    """Split R-hat of a statistic followed along several chains, (steps, chains): 1 when they agree.

    Each chain is cut in half; R-hat = sqrt(((n - 1) / n W + B / n) / W) with W the mean variance within the halves and
    B / n the variance of their means. Above about 1.01 the chains have not forgotten where they began. Infinite when
    halves are constant but differ. It compares means: chains of one mean and *different widths* pass, so follow a
    statistic of the spread, such as |chains - median|, as well. Vehtari et al. 2021, without rank-normalization.
    """
    halves = _halves(chains)
    n = halves.shape[0]
    within, between = halves.var(dim=0).mean().item(), halves.mean(dim=0).var().item()
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((n - 1) / n + between / within)


def effective_sample_size(chains: Tensor) -> float:
    """How many independent draws the correlated ones of several chains, (steps, chains), are worth for their mean.

    M n / tau with the autocorrelation time tau = 1 + 2 sum rho_t over split chains, summed in pairs for as long as the
    pairs are positive and made to decrease (Geyer). Source: Vehtari et al. 2021, section 3.
    """
    halves = _halves(chains)
    n, m = halves.shape
    centred = halves - halves.mean(dim=0)
    size = 2 ** math.ceil(math.log2(2 * n))
    spectrum = torch.fft.rfft(centred, n=size, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=size, dim=0)[:n] / n
    within = covariance[0].mean() * n / (n - 1)
    total = within * (n - 1) / n + (halves.mean(dim=0).var() if m > 1 else 0.0)
    if total <= 0:
        return float("nan")
    rho = 1 - (within - covariance.mean(dim=1) * n / (n - 1)) / total
    pairs = rho[: n - n % 2].view(-1, 2).sum(dim=1)
    positive = int((pairs > 0).long().cumprod(0).sum())
    tau = -1 + 2 * pairs[: max(positive, 1)].cummin(0).values.sum().item()
    return float(m * n / max(tau, 1 / math.log10(m * n + 10)))


def _halves(chains: Tensor) -> Tensor:
    if chains.ndim != 2 or chains.shape[0] < 8 or chains.shape[1] < 1:
        raise ShapeError(f"a statistic along chains must be (steps >= 8, chains >= 1), not {tuple(chains.shape)}")
    if not bool(torch.isfinite(chains).all()):
        raise ShapeError("the chains contain NaN or infinite values")
    half = chains.shape[0] // 2
    return torch.cat([chains[:half], chains[-half:]], dim=1).double()
