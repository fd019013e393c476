"""Sampling in the latent space: simplex interpolation and atypical selection.

Source: Somepalli et al., UAI 2021, sections on simplex interpolation and atypical selection. Codes
are (N, d). Every function draws from the generator it is given, on the codes' device.
"""

import math
from typing import Literal

import torch
from torch import Generator, Tensor

Direction = Literal["inward", "outward"]
Radial = Literal["radius", "volume"]
SimplexRule = Literal["normalised", "remainder"]

MIN_OUTWARD_FACTOR = 0.05  # codes are divided by it at the most: 1/a has no upper bound otherwise


def simplex_weights(
    count: int, k: int, generator: Generator, rule: SimplexRule = "normalised"
) -> Tensor:
    """Weights of k codes, (k, count); each column sums to 1.

    `normalised`, the paper: a_i / sum(a) with a_i ~ U[0, 0.5]. `remainder`: all but the first
    are U[0, 1 / (k - 1)], and the first is what is left of 1, from k = 3 on the largest in the
    mean, so that a parent which stands for all (`parents_paired`) is the most alike. The authors'
    code, for k = 3, leaves it to the last: with all parents paired that is the same.
    """
    if rule == "remainder" and k > 1:
        draws = torch.rand(k - 1, count, generator=generator, device=generator.device) / (k - 1)
        return torch.cat([1 - draws.sum(dim=0, keepdim=True), draws])
    draws = torch.rand(k, count, generator=generator, device=generator.device).mul_(0.5)
    # All k draws being zero has probability 2^-24k; the floor keeps even that finite.
    draws = draws.clamp_min_(torch.finfo(draws.dtype).tiny)
    return draws / draws.sum(dim=0, keepdim=True)


def parent_indices(count: int, k: int, generator: Generator) -> Tensor:
    """Which codes are mixed, (k, count): the code itself first, then k - 1 shuffles of all."""
    device = generator.device
    shuffles = [torch.randperm(count, generator=generator, device=device) for _ in range(k - 1)]
    return torch.stack([torch.arange(count, device=device), *shuffles])


def interpolate_codes(codes: Tensor, parents: Tensor, weights: Tensor) -> Tensor:
    """Sum over the parents: weights (k, M), parents (k, M) into codes (N, d) -> (M, d)."""
    return (codes[parents] * weights.unsqueeze(2)).sum(dim=0)


def shell_codes(
    count: int,
    latent_dim: int,
    typical_radius: float | Tensor,
    delta: float,
    direction: Direction,
    radial: Radial,
    generator: Generator,
) -> Tensor:
    """Random directions just inside or outside the typical sphere, (count, d).

    The radius lies between sqrt(d) and sqrt(d) - delta (inward, at least 0) or sqrt(d) + delta
    (outward), scaled by `typical_radius` / sqrt(d), so that delta keeps its unit, latent units of a
    standard normal code, wherever the codes really are. `radial` draws it uniformly by radius, or
    by volume, which in high dimensions crowds at the outer end.
    """
    root = math.sqrt(latent_dim)
    low, high = (max(root - delta, 0.0), root) if direction == "inward" else (root, root + delta)
    device = generator.device
    directions = torch.randn(count, latent_dim, generator=generator, device=device)
    directions = directions / directions.norm(dim=1, keepdim=True)
    u = torch.rand(count, 1, generator=generator, device=device)
    if radial == "radius":
        radii = low + u * (high - low)
    else:
        inner = (low / high) ** latent_dim  # relative volume of the excluded inner ball
        radii = high * (inner + u * (1.0 - inner)) ** (1.0 / latent_dim)
    codes: Tensor = directions * radii * (typical_radius / root)
    return codes


def ray_codes(codes: Tensor, delta: float, direction: Direction, generator: Generator) -> Tensor:
    """Codes z moved along their own ray, (M, d) -> (M, d): a z inward, z / a outward.

    a ~ U(0, delta), delta at most 1: beyond, codes would move the other way. Outward, a is at least
    `MIN_OUTWARD_FACTOR`, so that all codes move equally far with a delta of no more than that.
    """
    factors = torch.rand(len(codes), 1, generator=generator, device=generator.device) * delta
    if direction == "inward":
        return codes * factors
    return codes / factors.clamp_min(MIN_OUTWARD_FACTOR)


def cube_codes(codes: Tensor, count: int, generator: Generator) -> Tensor:
    """Uniform in a cube around the origin whose side is the smallest |entry| of `codes` (N, d).

    (count, d). Sipple, ICML 2020: the rival of the paper's Table 3.
    """
    side = codes.abs().min()
    draws = torch.rand(count, codes.shape[1], generator=generator, device=generator.device)
    return (draws - 0.5) * side
