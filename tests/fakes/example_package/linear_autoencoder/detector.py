"""An autoencoder of two matrices, which scores by how fast the error falls off around an image.

The score is a gradient, so that there is no ONNX form of it. Higher = more anomalous.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam


@dataclass(frozen=True, kw_only=True)
class LinearAutoencoderConfig(DetectorConfig):
    """Settings of the autoencoder."""

    latent_dim: int = 4  # length of a code
    lr: float = 1e-2  # of Adam

    def problems(self) -> list[str]:
        """All impossible values."""
        found = super().problems()
        if self.latent_dim < 1:
            found.append(f"latent_dim must be at least 1, got {self.latent_dim}")
        if self.lr <= 0:
            found.append(f"lr must be positive, got {self.lr}")
        return found


class SlopeScore(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to the gradient of their error and the error, (B,) each."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            images = images.clone().requires_grad_()
            errors = (self.network(images) - images).square().flatten(1).mean(dim=1)
            (gradient,) = torch.autograd.grad(errors.sum(), images)
        return gradient.flatten(1).norm(dim=1), errors.detach()


class LinearAutoencoder(Detector):
    """See the module's docstring."""

    name: ClassVar[str] = "linear-autoencoder"
    summary: ClassVar[str] = "Linear autoencoder, slope of the reconstruction error"
    Config: ClassVar[type[DetectorConfig]] = LinearAutoencoderConfig
    score_names: ClassVar[tuple[str, ...]] = ("slope", "error")
    reconstructs: ClassVar[bool] = True
    needs_gradient_to_score: ClassVar[bool] = True
    exports_to_onnx: ClassVar[bool] = False
    why_no_onnx: ClassVar[str] = "its score is a gradient"
    config: LinearAutoencoderConfig

    def __init__(
        self,
        config: LinearAutoencoderConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        channels, height, width = image_shape
        pixels = channels * height * width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Flatten(),
                nn.Linear(pixels, config.latent_dim),
                nn.Linear(config.latent_dim, pixels),
                nn.Unflatten(1, image_shape),
            )
        self.hold({"network": self.network})

    def make_optimisation(self) -> Optimisation:
        """Adam of all weights."""
        return Optimisation({"adam": adam(self.device, self.network.parameters(), self.config.lr)})

    def train_step(
        self,
        batch: Tensor,
        anomalies: Tensor | None = None,  # noqa: ARG002 - it cannot learn from them
    ) -> dict[str, Tensor]:
        """A step down the mean squared error, `error`."""
        error = (self.network(batch) - batch).square().mean()
        self.descend(error, "adam")
        return {"error": error.detach()}

    def raw_scorer(self) -> nn.Module:
        """Slope and error of an image."""
        return SlopeScore(self.network)

    def rebuild(self, batch: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        rebuilt: Tensor = self.network(batch)
        return rebuilt.clamp(-1, 1)
