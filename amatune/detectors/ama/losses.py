"""The terms of AMA's game: Somepalli et al., UAI 2021, Eq. 1-4.

The value of the game is

    V = E[D(x,x) - D(x,x')] + lambda_inter E[D(x,x) - D(x,x'_inter)] + lambda_reg E||E(x)||
        - lambda_neg E_neg[D(x_n,x_n) - D(x_n,x_n')]

which the critic D maximises and the encoder E and generator G minimise. Each function returns what
its player *minimises*, so the critic's terms come with the opposite sign.
"""

from typing import Literal

import torch
from torch import Tensor

from amatune.detectors.ama.networks import Critic
from amatune.nets.adversarial import safe_norm

PenaltyNorm = Literal["sample", "pixel"]


def pair_weights(normals: int, negatives: int, lambda_neg: float, device: torch.device) -> Tensor:
    """Weight of each image in the mean over a mixed batch, (normals + negatives,).

    1/B for a normal image and -lambda_neg/B for a negative: one mean over the whole batch, so that
    the negatives' total weight is lambda_neg times their share.
    """
    weights = torch.ones(normals + negatives, device=device)
    weights[normals:] = -lambda_neg
    return weights / (normals + negatives)


def critic_loss(
    same: Tensor,
    rebuilt: Tensor,
    mixed: Tensor | None,
    weights: Tensor,
    lambda_inter: float,
) -> Tensor:
    """Minus the critic's part of V, a scalar.

    `same` D(x,x) and `rebuilt` D(x,x') are (B,) over normals then negatives, with `weights` (B,)
    from `pair_weights`. `mixed` D(x, x'_inter) is (P, normals) for P paired parents, or None.
    """
    loss = -(weights * (same - rebuilt)).sum()
    if mixed is not None:
        loss = loss - lambda_inter * (same[: mixed.shape[1]].mean() - mixed.mean())
    return loss


def autoencoder_loss(
    rebuilt: Tensor,
    mixed: Tensor | None,
    code_norms: Tensor,
    weights: Tensor,
    lambda_inter: float,
    lambda_reg: float,
) -> Tensor:
    """The part of V that depends on E and G, a scalar: D(x,x) does not.

    Arguments as in `critic_loss`; `code_norms` are the unsquared L2 norms of the normal images'
    codes, (normals,).
    """
    loss = -(weights * rebuilt).sum() + lambda_reg * code_norms.mean()
    if mixed is not None:
        loss = loss - lambda_inter * mixed.mean()
    return loss


def gradient_penalty(critic: Critic, pairs: Tensor, norm: PenaltyNorm = "sample") -> Tensor:
    """(||grad D|| - 1)^2 for each pair, (M,), differentiable in the critic's weights.

    Gulrajani et al. 2017, at the given points `pairs` (M, 2C, H, W). `sample` takes the L2 norm
    over the whole stacked pair; `pixel` takes it over the channels of each pixel and averages the
    penalty over pixels, as the authors' public code does.
    """
    pairs = pairs.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(pairs).sum(), pairs, create_graph=True)
    if norm == "sample":
        return (safe_norm(gradient.flatten(1)) - 1.0) ** 2
    return ((safe_norm(gradient) - 1.0) ** 2).flatten(1).mean(dim=1)
