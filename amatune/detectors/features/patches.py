"""From the maps of a network to scores: patches, what is normal among them, and how far others are
from it.

A patch is one place of the maps, a vector of D values.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

REGULARISATION = 0.01  # of a covariance: added to its diagonal, times the mean variance
TOP_SHARE = 0.05  # of an image's patches, whose mean is the score `top`
CONTRAST = 0.4  # standard deviation of normalised images, about that of photographs in [-1, 1]
LEAST_CONTRAST = 0.02  # of an image: what has less is not made louder than this
COMPARED = 128  # dimensions in which the greedy choice compares patches, as in PatchCore's code
_BLOCK = 2048  # patches of the memory compared at a time
_GROUP = 64  # of them, one of which is looked through for the nearest


# --- from pictures to patches ---------------------------------------------------------------------


def resampling(before: int, after: int) -> Tensor:
    """(after, before): what bilinear resizing with antialiasing makes of a row of pixels."""
    rows = torch.eye(before, device="cpu")[None, None]
    resized = F.interpolate(rows, size=(after, before), mode="bilinear", antialias=True)
    return resized[0, 0]


class Resize(nn.Module):
    """Images (B, C, H, W) to (B, C, *size), bilinear with antialiasing.

    As products of matrices: so the ONNX form does the very same, whatever its runtime understands
    by resizing.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, before: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("rows", resampling(before[0], size[0]), persistent=False)
        self.register_buffer("columns", resampling(before[1], size[1]).T, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        resized: Tensor = self.rows @ images @ self.columns
        return resized


def normalised(images: Tensor) -> Tensor:
    """Images (B, C, H, W) with mean 0 and standard deviation `CONTRAST`, each by itself."""
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return centred * (CONTRAST / deviation.clamp_min(LEAST_CONTRAST))


def join(levels: list[Tensor], neighbourhood: int) -> Tensor:
    """Maps (B, C_l, H_l, W_l), the finest first, to patches (B, D, H, W) with the places of the
    finest: each value the mean of a square of `neighbourhood` places, deeper maps interpolated."""
    size = levels[0].shape[2:]
    joined = []
    for level in levels:
        mean = level
        if neighbourhood > 1:
            reach = neighbourhood // 2
            mean = F.avg_pool2d(level, neighbourhood, 1, reach, count_include_pad=False)
        if mean.shape[2:] != size:
            mean = F.interpolate(mean, size=size, mode="bilinear")
        joined.append(mean)
    return torch.cat(joined, dim=1)


def semi_orthogonal(dims: int, kept: int, generator: Generator) -> Tensor:
    """A random (dims, kept) matrix with orthonormal columns (Kim et al., 2021)."""
    noise = torch.randn(dims, kept, generator=generator, device=generator.device)
    columns: Tensor = torch.linalg.qr(noise).Q
    return columns


# --- what is normal -------------------------------------------------------------------------------


def greedy_coreset(patches: Tensor, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The places of `count` of the patches (N, D), and how far the farthest patch is from them.

    Begins with a random one; the next is always that which is farthest from all before
    (PatchCore's Algorithm 1, Gonzalez 1985). With more than `COMPARED` dimensions, distances are
    those of a random projection, as there.
    """
    if patches.shape[1] > COMPARED:
        project = torch.randn(
            patches.shape[1], COMPARED, generator=generator, device=generator.device
        )
        patches = patches @ (project / COMPARED**0.5)
    squares = patches.square().sum(dim=1)
    # Places stay tensors of one element: a number would be read from a GPU at every step.
    place = torch.randint(len(patches), (1,), generator=generator, device=generator.device)
    chosen = [place]
    distances = _squares_to(patches, squares, place)
    for _ in range(count - 1):
        place = distances.argmax(dim=0, keepdim=True)
        chosen.append(place)
        distances = torch.minimum(distances, _squares_to(patches, squares, place))
    return torch.cat(chosen), distances.max().clamp_min(0).sqrt()


def _squares_to(patches: Tensor, squares: Tensor, place: Tensor) -> Tensor:
    distances = squares + squares[place] - 2 * (patches @ patches[place].squeeze(0))
    # Itself: rounding must not make it the farthest.
    return distances.index_fill_(0, place, -1.0)


def whitening(covariance: Tensor) -> Tensor:
    """(..., D, D) -> W of the same shape, so that |(x - mean) W| is Mahalanobis' distance."""
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    lower = torch.linalg.cholesky(covariance)
    inverse: Tensor = torch.linalg.solve_triangular(lower, eye.expand_as(covariance), upper=False)
    return inverse.mT


def regularised(covariance: Tensor, variance: Tensor | None = None) -> Tensor:
    """Covariances (..., D, D) with `REGULARISATION` times the mean of all variances on the
    diagonal, or times `variance` where these are a part of all.

    PaDiM adds .01 as it is; the features of other networks have another scale.
    """
    if variance is None:
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean()
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    return covariance + (REGULARISATION * variance).clamp_min(1e-12) * eye


def shrunk_covariance(centred: Tensor) -> Tensor:
    """The covariance (D, D) of centred values (N, D), drawn towards a sphere by as much as Ledoit
    and Wolf (2004) find best."""
    count, dims = centred.shape
    covariance = centred.T @ centred / count
    scale = covariance.diagonal().mean()
    sphere = scale * torch.eye(dims, dtype=centred.dtype, device=centred.device)
    distance = (covariance - sphere).square().sum()
    fourth = centred.square().sum(dim=1).square().sum() / count
    spread = ((fourth - covariance.square().sum()) / count).clamp_min(0)
    share = torch.where(distance > 0, spread / distance, torch.ones_like(distance)).clamp(max=1.0)
    return share * sphere + (1 - share) * covariance


class Moments:
    """Sums over images of their patches, place by place: mean (P, D) and covariance (P, D, D).

    In double precision, about the patches of the first image: they are added up once, in any
    batches.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, patches: Tensor) -> None:
        """Take in patches (B, P, D)."""
        patches = patches.double()
        if not self.count:
            self._about = patches[0].clone()
            self._sum = torch.zeros_like(self._about)
            self._products = self._about.new_zeros(*self._about.shape, patches.shape[2])
        centred = (patches - self._about).transpose(0, 1)  # (P, B, D)
        self._sum += centred.sum(dim=1)
        self._products.baddbmm_(centred.mT, centred)  # in place: they are most of the memory
        self.count += len(patches)

    def read(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance, of N - 1 degrees of freedom as in PaDiM's Eq. 1. Once: it is made
        of the sums, in their place."""
        mean = self._sum / self.count
        covariance = self._products
        covariance.baddbmm_(mean[:, :, None], mean[:, None, :], alpha=-self.count)
        return mean + self._about, covariance.div_(max(self.count - 1, 1))


# --- how far others are ---------------------------------------------------------------------------


def nearest(patches: Tensor, memory: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Patches (..., D), memory (K, D) -> distances to the `count` nearest and their places, both
    (..., count), the nearest first. `count` is at most K.

    The memory is taken in blocks, which bounds what is held at a time. The places are found by one
    product of matrices, |m|^2 - 2 x m, which orders as |x - m|^2 does; the distances are taken
    anew, since close to a neighbour the products cancel.
    """
    lengths = memory.square().sum(dim=1, keepdim=True)
    # Whole groups: what is not in the memory is infinitely far away.
    missing = -memory.shape[0] % _GROUP
    sides = torch.cat(
        [
            F.pad(-2 * memory, (0, 0, 0, missing)),
            F.pad(lengths, (0, 0, 0, missing), value=math.inf),
        ],
        dim=1,
    )  # (K and the missing, D + 1)
    asked = torch.cat([patches, torch.ones_like(patches[..., :1])], dim=-1)
    found: list[Tensor] = []
    places: list[Tensor] = []
    for start in range(0, sides.shape[0], _BLOCK):
        order = asked @ sides[start : start + _BLOCK].T
        values, indices = _lowest(order, min(count, order.shape[-1]))
        found.append(values)
        places.append(indices + start)
    place = torch.cat(places, dim=-1)
    if len(found) > 1:
        _, best = _lowest(torch.cat(found, dim=-1), count)
        place = place.gather(-1, best)
    # Of patches that are not finite none is near: their distances must not be numbers either.
    place = place.clamp(max=memory.shape[0] - 1)
    neighbours = memory[place]  # (..., count, D)
    return (patches.unsqueeze(-2) - neighbours).square().sum(dim=-1).sqrt(), place


def _lowest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` lowest of the last axis, and their places."""
    if count == 1:
        return _lowest_one(values)
    lowest, place = values.topk(count, dim=-1, largest=False)
    return lowest, place


def _lowest_one(values: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest of the last axis, and its place: first the group that it is in, then where in the
    group. A place costs several times what a value does, by the ONNX Runtime most of all, and so is
    looked for in two short rows instead of a long one."""
    if values.shape[-1] % _GROUP:
        lowest, place = values.min(dim=-1, keepdim=True)
        return lowest, place
    groups = values.reshape(*values.shape[:-1], values.shape[-1] // _GROUP, _GROUP)
    each = groups.amin(dim=-1)
    group = each.argmin(dim=-1, keepdim=True)
    rows = torch.arange(group.numel(), device=group.device).reshape(group.shape)
    inside = groups.flatten(0, -2)[(rows * each.shape[-1] + group).squeeze(-1)]
    return each.gather(-1, group), group * _GROUP + inside.argmin(dim=-1, keepdim=True)


def rarity(patch: Tensor, distance: Tensor, place: Tensor, memory: Tensor, b: int) -> Tensor:
    """The factor (B,), in (0, 1), of PatchCore's Eq. 7, by which an image's score is multiplied: of
    its farthest patch (B, D), its distance (B,) from the nearest in the memory, m* at `place` (B,).
    It is larger where that one is rare.

    1 - exp|m - m*| / sum of exp|m - m'| over the `b` patches m' of the memory that are nearest to
    m*, m* among them.
    """
    own = memory[place]
    _, around = nearest(own, memory, min(b, memory.shape[0]))
    lengths = (patch.unsqueeze(1) - memory[around]).square().sum(dim=2).sqrt()  # (B, b)
    exponent = torch.cat([distance.unsqueeze(1), lengths], dim=1)
    exponent = (exponent - exponent.amax(dim=1, keepdim=True)).exp()
    return 1 - exponent[:, 0] / exponent[:, 1:].sum(dim=1)


def top_mean(distances: Tensor) -> Tensor:
    """The mean of the largest `TOP_SHARE` of distances (B, P), at least one: (B,)."""
    count = max(1, round(TOP_SHARE * distances.shape[1]))
    return distances.topk(count, dim=1).values.mean(dim=1)
