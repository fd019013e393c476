"""The settings of AMA."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from amatune.config import DetectorConfig, ImageShape
from amatune.detectors.ama.latent import Direction, Radial, SimplexRule
from amatune.detectors.ama.losses import PenaltyNorm
from amatune.nets.sizes import require_min_side

MOST_PARENTS = 100  # of an interpolate
MOST_LAZY = 100  # critic steps to the next penalty; published for others: 16


@dataclass(frozen=True, kw_only=True)
class AMAConfig(DetectorConfig):
    """Settings of AMA. The defaults are those that learnt most per second on a CPU (preset `fast`,
    docs/ama.md); where they differ from the paper a comment has the published value."""

    batch_size: int = 32  # images per step; published: 256

    # Networks
    network: Literal["auto", "residual", "small"] = "auto"  # auto: small for grey, else residual
    width: float = 1.0  # multiplies channel and unit counts; 1 is the published size
    latent_dim: int | None = None  # d; None: 128 (residual) or 64 (small)
    spectral_norm: bool | None = None  # of the critic; None: on for residual, off for small

    # Objective, Eq. 1-4
    mirrored: bool = True  # the critic sees pairs; False is the paper's ablation
    k: int = 3  # normal codes mixed by an interpolate; 1 switches interpolation off
    simplex: SimplexRule = "normalised"  # how the k weights are drawn; authors' code: remainder
    parents_paired: Literal["one", "all"] = "one"  # all: average over the k parents (authors' code)
    interpolation_gradient: bool = True  # E and G learn from interpolates; authors' code: False
    lambda_inter: float = 0.5  # weight of the interpolates; 0 switches them off
    lambda_neg: float = 5.0  # weight of a negative in the mean over the batch
    lambda_reg: float = 0.01  # weight of the mean code norm; published: 1
    lambda_gp: float = 10.0  # weight of the gradient penalty
    penalty_norm: PenaltyNorm = "sample"  # authors' code: pixel
    penalty_share: float = 0.34  # of the pairs of each kind that are penalised; published: 1
    penalty_every: int = 1  # critic steps to the next penalty, which weighs for all of them
    penalised: Literal["all", "reconstructions"] = "all"  # pairs; authors' code: reconstructions

    # Atypical selection
    geometry: Literal["shell", "ray", "cube"] = "ray"  # published figures: ray; main text: shell
    direction: Direction | None = None  # None: outward (small) or inward (residual), as published
    delta: float = 0.5  # shell: width in latent units, at most sqrt(d) inward; ray: largest factor
    radius: Literal["typical", "codes"] = "typical"  # shell around sqrt(d) or the mean code norm
    radial: Radial = "radius"  # shell: radius uniform, or uniform by volume
    negative_share: float = 0.0  # of each batch; 0 switches negatives off; published: 0.1
    warmup: float = 0.1  # share of the epochs before negatives start

    # Optimisation
    critic_steps: int = 1  # per E/G step, on the same batch; published: 5
    lr: float = 2e-3  # of Adam, all three networks; published: 3e-4
    beta1: float = 0.0  # of Adam, G and D
    beta1_encoder: float = 0.5  # of Adam, E
    beta2: float = 0.9  # of Adam, all three
    milestones: tuple[float, ...] = (0.6, 0.85)  # where lr drops; published: 0.3, 0.6, 0.9
    lr_decay: float = 0.1  # factor at each milestone

    # Execution
    # Of both, "auto" is what the device can do: none on a CPU.
    precision: Literal["auto", "float32", "bfloat16"] = "float32"  # of the networks in training
    cuda_graphs: bool | Literal["auto"] = False  # replay a step as one CUDA graph; needs a GPU

    # Scoring
    score: Literal["auto", "A", "R", "AC", "RC"] = "auto"  # which score ranks the images

    def problems(self) -> list[str]:
        """All impossible values, one sentence each."""
        found = super().problems()
        positive = {"width", "delta", "lr"}
        at_least_zero = {"lambda_inter", "lambda_neg", "lambda_reg", "lambda_gp"}
        below_one = {"negative_share", "warmup", "beta1", "beta1_encoder", "beta2"}
        for name in sorted(positive):
            if getattr(self, name) <= 0:
                found.append(f"{name} must be positive, got {getattr(self, name)}")
        for name in sorted(at_least_zero):
            if getattr(self, name) < 0:
                found.append(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in sorted(below_one):
            if not 0 <= getattr(self, name) < 1:
                found.append(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.penalty_share <= 1:
            found.append(f"penalty_share must be in (0, 1], got {self.penalty_share}")
        if self.k > MOST_PARENTS:
            found.append(f"k must be at most {MOST_PARENTS}, got {self.k}")
        if self.penalty_every > MOST_LAZY:
            found.append(f"penalty_every must be at most {MOST_LAZY}, got {self.penalty_every}")
        for name in ("k", "critic_steps", "penalty_every"):
            if getattr(self, name) < 1:
                found.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.latent_dim is not None and self.latent_dim < 2:
            found.append(f"latent_dim must be at least 2, got {self.latent_dim}")
        if self.geometry == "ray" and self.delta > 1:
            found.append(f"delta of a ray is the largest factor, at most 1, got {self.delta}")
        if not 0 < self.lr_decay <= 1:
            found.append(f"lr_decay must be in (0, 1], got {self.lr_decay}")
        if any(not 0 < m < 1 for m in self.milestones):
            found.append(f"milestones are shares of the epochs in (0, 1), got {self.milestones}")
        return found

    def resolve(self, image_shape: ImageShape) -> Self:
        """Fill in what the images (C, H, W) decide: network, latent size, norm and direction."""
        require_min_side(image_shape)
        network = self.network
        if network == "auto":
            network = "small" if image_shape[0] == 1 else "residual"
        residual = network == "residual"
        filled: dict[str, Any] = {"network": network}
        if self.latent_dim is None:
            filled["latent_dim"] = 128 if residual else 64
        if self.spectral_norm is None:
            filled["spectral_norm"] = residual
        if self.direction is None:
            filled["direction"] = "inward" if residual else "outward"
        return self.replace(**filled)

    def problems_with_anomalies(self) -> list[str]:
        """Negatives that are off: labelled anomalies are learnt from as such."""
        return [
            f"labelled anomalies are learnt from as negatives: {name} must be more than 0, got "
            f"{getattr(self, name):g}"
            for name in ("negative_share", "lambda_neg")
            if getattr(self, name) == 0
        ]

    @property
    def has_negatives(self) -> bool:
        """Whether there are any, once they start."""
        return self.negative_share > 0 and self.lambda_neg > 0

    @property
    def warmup_epochs(self) -> int:
        """Epochs without negatives: at least one is left for those, unless it is the only one."""
        share = round(self.warmup * self.epochs, 9)  # .28 * 25 is 7.000000000000001
        return min(math.ceil(share), self.epochs - 1)

    def grace_epochs(self) -> int:
        """The warm-up, where there are negatives: until they start, geometry, direction, delta and
        lambda_neg do nothing."""
        return max(1, self.warmup_epochs) if self.has_negatives else 1


# The paper's values, where the defaults are others. Its budget is 100 epochs.
PAPER: dict[str, Any] = {
    "batch_size": 256,
    "critic_steps": 5,
    "lambda_reg": 1.0,
    "lr": 3e-4,
    "milestones": [0.3, 0.6, 0.9],
    "negative_share": 0.1,
    "penalty_share": 1.0,
    "score": "A",
}
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": PAPER,
    "authors-code": {
        **PAPER,
        "penalty_norm": "pixel",
        "penalised": "reconstructions",
        "simplex": "remainder",
        "parents_paired": "all",
        "interpolation_gradient": False,
    },
    # The paper's ablations.
    "without-mirror": {**PAPER, "mirrored": False},
    "without-simplex": {**PAPER, "k": 1},
    "without-atypical": {**PAPER, "negative_share": 0.0},
    "r-score": {**PAPER, "score": "R"},
}
