"""MCMC teaching: a generator proposes, the descriptor's chain revises, the generator learns the revision (Algorithm 3).

Nothing of the loop is new: `dnet_lib.learning.learn` with `Teaching` as its starts. With M_theta the finite chain,

    theta:  arg min KL(P_data || p_theta) - KL(M_theta q_alpha || p_theta),    eq. (23)
    alpha:  arg min KL(M_theta q_alpha_t || q_alpha),                          eq. (24)

the first by the learning step of eq. (8), the second by the regression of eq. (22).
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from dnet_lib.checks import check_betas, check_kind, check_learns, check_real, check_whole
from dnet_lib.generator import Proposals, latents, regress
from dnet_lib.processes import alike
from dnet_lib.resuming import described, remember
from dnet_lib.starts import Begun, Starts
from dnet_lib.voxels import brief


@dataclass(eq=False)
class Teaching(Starts):
    """Chains start at a generator's proposals; where they end is what the generator learns: Algorithm 3."""

    proposals: Proposals
    num_chains: int
    optimizer: torch.optim.Optimizer  #: Of the generator
    latent: Tensor | None = None  #: Z of the iteration under way, (num_chains, d)
    loss: Tensor | None = None
    """Mean |Y - g(Z)|^2 over the revised shapes of the last iteration, before the generator's step."""

    __repr__ = brief

    def __post_init__(self) -> None:
        check_whole(self.num_chains, "num_chains", 1)

    @classmethod
    def begin_with(
        cls,
        net: nn.Module,
        centre: float = 0.0,
        *,
        num_chains: int = 50,
        sigma: float = 0.0,
        learning_rate: float = 0.0003,
        betas: tuple[float, float] = (0.6, 0.999),
    ) -> Self:
        """Teach `net`, a generator, by Adam with the rates of section 6.4; `centre` is the training shapes' mean."""
        check_kind(net, nn.Module, "the generator must be a torch.nn.Module", "such as a GeneratorNet")
        rate, betas = check_real(learning_rate, "learning_rate"), check_betas(betas)
        check_learns(net, net.parameters())
        alike(net)
        optimizer = torch.optim.Adam(net.parameters(), lr=rate, betas=betas)
        return cls(Proposals(net, centre, sigma), num_chains, optimizer)

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        self.latent = latents(self.proposals.net, self.num_chains, generator)
        return self.proposals.at(self.latent, generator), None

    def learn(self, revised: Tensor) -> None:
        assert self.latent is not None, "a start begins before it learns"
        self.loss = regress(self.proposals.net, self.optimizer, self.latent, revised + self.proposals.centre)

    def about(self) -> dict[str, Any]:
        told = {
            "network": described(self.proposals.net),
            "centre": self.proposals.centre,
            "sigma": self.proposals.sigma,
        }
        return super().about() | told

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.proposals.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.proposals.net.load_state_dict(state["net"])
        remember(self.optimizer, state["optimizer"])
