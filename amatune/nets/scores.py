"""Scores that several methods share. Higher = more anomalous.

R and A are Eq. 5 and 6 of Somepalli et al., UAI 2021. Dividing an error by the complexity of the
image is not in that paper: an error grows with how much there is to rebuild, so that a plain image
counts as normal whatever it shows. It is offered to every method whose score is an error of
reconstruction or of features, and raises all of them, PCA included: a comparison of methods by it
is one on equal terms only if all have it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Added to the complexity, which is 0 for an image of one colour. A handwritten digit has about .2.
COMPLEXITY_FLOOR = 0.02


def r_score(features_same: Tensor, features_rebuilt: Tensor) -> Tensor:
    """||f(x,x) - f(x,x')||_1 over critic features (N, F) -> (N,), Eq. 5.

    Anomalies may lie above *or below* the normal images.
    """
    return (features_same - features_rebuilt).abs().sum(dim=1)


def a_score(r: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """|R - mean| / std, (N,) -> (N,).

    Eq. 6 ranks by the Gaussian density of R under the training images' mean and variance. The
    density itself underflows into ties far from the mean; this is the same order without them.
    """
    return (r - mean).abs() / std


def complexity(images: Tensor) -> Tensor:
    """Total variation of images (N, C, H, W) in [-1, 1]: mean |dx| plus mean |dy|, (N,)."""
    across = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean(dim=(1, 2, 3))
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    return across + down


def per_complexity(errors: Tensor, images: Tensor) -> Tensor:
    """Errors (N,) of images (N, C, H, W), each divided by how much there is in the image: (N,)."""
    return errors / (complexity(images) + COMPLEXITY_FLOOR)


class WithDistances(nn.Module):
    """Raw scores, and for some of them the distance from the mean over normal images, `a_score`.

    `order` has an entry for each score that comes out: the place of a raw score, and whether it is
    itself (False) or its distance (True). `means` and `stds` (raw scores,) are in raw order.
    """

    means: Tensor
    stds: Tensor

    def __init__(
        self, raw: nn.Module, order: Sequence[tuple[int, bool]], means: Tensor, stds: Tensor
    ) -> None:
        super().__init__()
        self.raw, self.order = raw, tuple(order)
        self.register_buffer("means", means)
        self.register_buffer("stds", stds)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Float images (B, C, H, W) -> one (B,) for each entry of `order`."""
        raw = self.raw(images)
        return tuple(
            a_score(raw[place], self.means[place], self.stds[place]) if distance else raw[place]
            for place, distance in self.order
        )


def means_and_stds(raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of raw scores (N,) each: two float32 tensors with an entry for each.

    A score that is constant gets the deviation 1: its distance is then 0 for images like those.
    """
    values = torch.stack(list(raw))
    stds = values.std(dim=1, correction=0)
    stds = torch.where(stds > 0, stds, torch.ones_like(stds))
    return values.mean(dim=1).float(), stds.float()
