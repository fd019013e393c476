"""Where an image looks anomalous, of what rebuilds it."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn


class ErrorMap(nn.Module):
    """Images (B, C, H, W) to the mean absolute error of their reconstructions, (B, H, W).

    `rebuild` computes these with the `networks`, which are held so that they are part of an export.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], rebuild: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks))
        self.rebuild = rebuild

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return (images - self.rebuild(images)).abs().mean(dim=1)
