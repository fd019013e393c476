"""AMA: Adversarial Mirrored Autoencoder.

Somepalli, Wu, Balaji, Vinzamuri, Feizi: Unsupervised Anomaly Detection with Adversarial Mirrored
AutoEncoders, UAI 2021 (PMLR 161:365-375), arXiv 2003.10713.

An encoder E and a generator G rebuild normal images, x' = G(E(x)). A critic D sees *pairs* and
tells (x, x) from (x, x'); the Wasserstein distance between the two, Eq. 1, is the reconstruction
loss. Two regularisers shape the latent space: interpolates of k normal codes must decode to images
as good as any (simplex interpolation), and images decoded from codes just off the typical set are
treated as anomalies that must *not* be rebuilt (atypical selection). Eq. 2-4 are in
`amatune.detectors.ama.losses`, the samplers in `amatune.detectors.ama.latent`, the scores, Eq. 5-6,
in `amatune.nets.scores`.

Where this differs from the authors' public code, and why:

- The gradient penalty's norm runs over a whole pair, not over each pixel's channels
  (`penalty_norm`), and every kind of pair is penalised, also (x, x'_inter) (`penalised`): without
  it nothing bounds the critic along those pairs.
- The interpolation weights are a_i / sum(a), the paper's formula (`simplex`).
- G and E learn from the interpolates, as in the formula (`interpolation_gradient`).
- An interpolate is paired with one of its parents, not with all (`parents_paired`).
- Reconstructions, interpolates and negatives are made once per batch and shared by all critic
  steps and the E/G step: E and G do not change in between.

The preset `authors-code` undoes all but the last of these.

Scores are higher for more anomalous images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amatune.detector import Detector, DetectorConfig, ImageShape, to_unit_range
from amatune.detectors.ama.latent import (
    Direction,
    Radial,
    SimplexRule,
    cube_codes,
    interpolate_codes,
    parent_indices,
    ray_codes,
    shell_codes,
    simplex_weights,
)
from amatune.detectors.ama.losses import (
    PenaltyNorm,
    autoencoder_loss,
    critic_loss,
    gradient_penalty,
    pair_weights,
)
from amatune.detectors.ama.networks import Critic, Family, build_networks
from amatune.errors import ConfigError, DivergedError, RequestError
from amatune.nets.capture import CapturedStep
from amatune.nets.loop import LossMeans, shuffled_batches
from amatune.nets.scores import a_score, r_score
from amatune.nets.sizes import require_min_side
from amatune.nets.tensors import flat_tensors, load_flat_tensors

CODE_NORM_MEMORY = 0.99  # weight of the past in the running mean code norm, per step


@dataclass(frozen=True, kw_only=True)
class AMAConfig(DetectorConfig):
    """Settings of AMA; the defaults are the paper's unless a comment says otherwise."""

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
    lambda_reg: float = 1.0  # weight of the mean code norm
    lambda_gp: float = 10.0  # weight of the gradient penalty
    penalty_norm: PenaltyNorm = "sample"  # authors' code: pixel
    penalised: Literal["all", "reconstructions"] = "all"  # pairs; authors' code: reconstructions

    # Atypical selection
    geometry: Literal["shell", "ray", "cube"] = "ray"  # published figures: ray; main text: shell
    direction: Direction | None = None  # None: outward (small) or inward (residual), as published
    delta: float = 0.5  # shell: width in latent units, at most sqrt(d) inward; ray: largest factor
    radius: Literal["typical", "codes"] = "typical"  # shell around sqrt(d) or the mean code norm
    radial: Radial = "radius"  # shell: radius uniform, or uniform by volume
    negative_share: float = 0.1  # of each batch; 0 switches negatives off
    warmup: float = 0.1  # share of the epochs before negatives start

    # Optimisation
    critic_steps: int = 5  # per E/G step, on the same batch
    lr: float = 3e-4  # of Adam, all three networks
    beta1: float = 0.0  # of Adam, G and D
    beta1_encoder: float = 0.5  # of Adam, E
    beta2: float = 0.9  # of Adam, all three
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)  # shares of the epochs where lr drops
    lr_decay: float = 0.1  # factor at each milestone

    # Execution
    precision: Literal["float32", "bfloat16"] = "float32"  # of the networks while training
    cuda_graphs: bool = False  # replay a training step as one CUDA graph; needs a GPU

    # Scoring
    score: Literal["A", "R"] = "A"  # which score ranks the images

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
        for name in ("k", "critic_steps"):
            if getattr(self, name) < 1:
                found.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.latent_dim is not None and self.latent_dim < 2:
            found.append(f"latent_dim must be at least 2, got {self.latent_dim}")
        if self.geometry == "ray" and self.direction == "inward" and self.delta > 1:
            found.append(
                f"delta of an inward ray is a share of the code, at most 1, got {self.delta}"
            )
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

    @property
    def warmup_epochs(self) -> int:
        """Epochs without negatives."""
        return math.ceil(self.warmup * self.epochs)

    def grace_epochs(self) -> int:
        """The warm-up: until negatives start, geometry, direction, delta and lambda_neg do
        nothing."""
        return self.warmup_epochs


class _Pairs(NamedTuple):
    """What the critic compares, made once per batch; images in [-1, 1].

    `images` (B, C, H, W) are normals, then negatives; `rebuilt` (B, C, H, W) their
    reconstructions. `parents` and `mixed` (P, normals, C, H, W) are P paired parents of each
    interpolate, and the interpolate itself repeated; both None without interpolation.
    """

    images: Tensor
    rebuilt: Tensor
    parents: Tensor | None
    mixed: Tensor | None
    code_norms: Tensor  # (normals,)
    weights: Tensor  # (B,)

    def detached(self) -> "_Pairs":
        """The same values without their graph."""
        return self._replace(
            **{name: t.detach() for name, t in self._asdict().items() if t is not None}
        )


class _Optimisation(NamedTuple):
    critic: torch.optim.Adam
    autoencoder: torch.optim.Adam
    schedules: list[torch.optim.lr_scheduler.MultiStepLR]


def _pair(left: Tensor, right: Tensor, mirrored: bool) -> Tensor:
    """What the critic sees of (left, right), both (N, C, H, W): (N, 2C, H, W) when mirrored,
    `right` alone otherwise, so that D(x, x') becomes D(x')."""
    return torch.cat([left, right], dim=1) if mirrored else right


class _RScore(nn.Module):
    """R of float images (B, C, H, W): (B,)."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, critic: Critic, mirrored: bool
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.critic = encoder, decoder, critic
        self.mirrored = mirrored

    def forward(self, images: Tensor) -> Tensor:
        rebuilt = self.decoder(self.encoder(images))
        # One pass for both: an image's score must not depend on how the pass is split.
        pairs = [_pair(images, other, self.mirrored) for other in (images, rebuilt)]
        features, count = self.critic.features(torch.cat(pairs)), images.shape[0]
        # Slices: `chunk` has no counterpart in ONNX when the batch may have any size.
        return r_score(features[:count], features[count:])


class _Scorer(nn.Module):
    """A and R of float images (B, C, H, W): (B,) each."""

    mean: Tensor
    std: Tensor

    def __init__(self, r: _RScore, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.r = r
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        r = self.r(images)
        return a_score(r, self.mean, self.std), r


class AMA(Detector):
    """Adversarial Mirrored Autoencoder; see the module's docstring."""

    name: ClassVar[str] = "ama"
    summary: ClassVar[str] = "Adversarial Mirrored Autoencoder (Somepalli et al., UAI 2021)"
    Config: ClassVar[type[DetectorConfig]] = AMAConfig
    score_names: ClassVar[tuple[str, ...]] = ("A", "R")
    reconstructs: ClassVar[bool] = True
    learns_from_anomalies: ClassVar[bool] = True
    inert_with_anomalies: ClassVar[tuple[str, ...]] = (
        "geometry",
        "radius",
        "radial",
        "direction",
        "delta",
        "warmup",
    )
    inert_in_warmup: ClassVar[tuple[str, ...]] = (
        "geometry",
        "radius",
        "radial",
        "direction",
        "delta",
        "lambda_neg",
        "negative_share",
        "score",
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "authors-code": {
            "penalty_norm": "pixel",
            "penalised": "reconstructions",
            "simplex": "remainder",
            "parents_paired": "all",
            "interpolation_gradient": False,
        },
        # The paper's ablations.
        "without-mirror": {"mirrored": False},
        "without-simplex": {"k": 1},
        "without-atypical": {"negative_share": 0.0},
        "r-score": {"score": "R"},
    }
    config: AMAConfig

    def __init__(
        self,
        config: AMAConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        self.config = config = config.resolve(image_shape)
        self.latent_dim = cast(int, config.latent_dim)
        self.direction = cast(Direction, config.direction)
        encoder, generator, critic = build_networks(
            cast(Family, config.network),
            image_shape,
            self.latent_dim,
            width=config.width,
            spectral=bool(config.spectral_norm),
            mirrored=config.mirrored,
            seed=seed,
        )
        self.encoder = encoder.to(self.device).eval()
        self.decoder = generator.to(self.device).eval()
        self.critic = critic.to(self.device).eval()
        if config.network == "residual":
            # Measured: 1.15 times the images per second on a CPU; see benchmarks/RESULTS.md.
            for network in self._networks().values():
                network.to(memory_format=torch.channels_last)

        # Until a batch has been seen, codes are taken to sit where a standard normal puts them.
        self.code_norm = torch.tensor(math.sqrt(self.latent_dim), device=self.device)
        self.r_mean: Tensor | None = None  # of R over normal training images, set by `calibrate`
        self.r_std: Tensor | None = None
        self._captured: dict[tuple[object, ...], CapturedStep] = {}

    @cached_property
    def _optimisation(self) -> "_Optimisation":
        """Optimisers and their schedules, made when training needs them.

        Scoring does not, and making one imports the whole of torch's compiler, which takes longer
        than scoring a thousand pictures.
        """
        config = self.config
        betas = (config.beta1, config.beta2)
        critic = self._adam([{"params": list(self.critic.parameters()), "betas": betas}])
        autoencoder = self._adam(
            [
                {"params": list(self.decoder.parameters()), "betas": betas},
                {
                    "params": list(self.encoder.parameters()),
                    "betas": (config.beta1_encoder, config.beta2),
                },
            ]
        )
        milestones = [max(1, round(share * config.epochs)) for share in config.milestones]
        schedules = [
            torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=config.lr_decay)
            for optimizer in (critic, autoencoder)
        ]
        return _Optimisation(critic, autoencoder, schedules)

    @property
    def critic_optimizer(self) -> torch.optim.Adam:
        """Adam of D."""
        return self._optimisation.critic

    @property
    def autoencoder_optimizer(self) -> torch.optim.Adam:
        """Adam of G and E, in this order."""
        return self._optimisation.autoencoder

    @property
    def schedules(self) -> list[torch.optim.lr_scheduler.MultiStepLR]:
        """Of the learning rates of both optimisers."""
        return self._optimisation.schedules

    def _adam(self, groups: list[dict[str, Any]]) -> torch.optim.Adam:
        """On a GPU, one kernel per step that never waits for the host."""
        on_gpu = self.device.type == "cuda"
        if on_gpu and self.config.cuda_graphs:
            # A captured step reads the learning rate from the device, where schedules change it.
            for group in groups:
                group["lr"] = torch.tensor(self.config.lr, device=self.device)
        return torch.optim.Adam(groups, lr=self.config.lr, fused=on_gpu, capturable=on_gpu)

    # --- training ---------------------------------------------------------------------------------

    def train_epoch(self, images: Tensor, anomalies: Tensor | None = None) -> dict[str, float]:
        """One epoch over `images` (N, C, H, W). Returns means over its steps:

        With labelled `anomalies` (M, C, H, W), the paper's semi-supervised case, those stand in for
        the atypical images: drawn anew for every batch, with replacement, and without a warm-up.

        `wasserstein` E[D(x,x) - D(x,x')] on normals, `interpolation` and `negatives` likewise,
        `penalty` the unweighted gradient penalty, `critic` and `autoencoder` what each player
        minimised, `code_norm` the mean ||E(x)||, `reconstruction` the mean |x - x'| per pixel.
        """
        self._check_images(images)
        if anomalies is not None:
            self._check_images(anomalies)
        if self.config.cuda_graphs and self.device.type != "cuda":
            raise ConfigError(f"cuda_graphs needs a CUDA device, this is a {self.device.type}")
        means = LossMeans()
        modules = (self.encoder, self.decoder, self.critic)
        for module in modules:
            module.train()
        try:
            batches = shuffled_batches(len(images), self.config.batch_size, self.generator)
            for indices in batches:
                batch = to_unit_range(images[indices.to(images.device)].to(self.device))
                means.add(self._step(batch, anomalies))
        finally:
            for module in modules:
                module.eval()
        losses = means.read()
        self._require_finite(losses)
        for schedule in self.schedules:
            schedule.step()
        self.epoch += 1
        return losses

    def _step(self, batch: Tensor, anomalies: Tensor | None = None) -> dict[str, Tensor]:
        """`_train_step`, replayed where the settings say so."""
        if self.config.cuda_graphs:
            return self._captured_step(batch, anomalies)(batch)
        return self._train_step(batch, anomalies)

    def _captured_step(self, batch: Tensor, anomalies: Tensor | None) -> CapturedStep:
        """The step as a CUDA graph; a new one when what it does or reads has changed."""
        known = None if anomalies is None else anomalies.data_ptr()
        key = (batch.shape, self.epoch < self.config.warmup_epochs, known)
        if key not in self._captured:
            self._captured.clear()  # the old graph's memory
            step = partial(self._train_step, anomalies=anomalies)
            self._captured[key] = CapturedStep(step, self.generator)
        return self._captured[key]

    def _low_precision(self) -> torch.autocast:
        """Where networks may compute in bfloat16; parameters, losses and penalty never do."""
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def _train_step(self, batch: Tensor, anomalies: Tensor | None = None) -> dict[str, Tensor]:
        """`critic_steps` steps of D, then one of E and G, on one float batch (B, C, H, W)."""
        pairs = self._make_pairs(batch, anomalies)
        fixed = pairs.detached()
        for _ in range(self.config.critic_steps):
            losses = self._critic_step(fixed)
        losses["autoencoder"] = self._autoencoder_step(pairs)
        losses["code_norm"] = pairs.code_norms.mean()
        normals = len(pairs.code_norms)
        losses["reconstruction"] = (fixed.images - fixed.rebuilt)[:normals].abs().mean()
        return losses

    def _make_pairs(self, batch: Tensor, anomalies: Tensor | None = None) -> _Pairs:
        """Codes, reconstructions, interpolates and negatives of a batch, with E's and G's graph."""
        config = self.config
        negatives = self._negatives(batch, anomalies)
        normals = batch[: len(batch) - len(negatives)]
        images = torch.cat([normals, negatives])
        count = len(normals)

        with self._low_precision():
            codes = self.encoder(images)
        codes = codes.float()
        code_norms = codes[:count].norm(dim=1)
        self.code_norm.lerp_(code_norms.detach().mean(), 1 - CODE_NORM_MEMORY)

        parents = mixed = None
        to_decode = codes
        if config.k > 1 and config.lambda_inter > 0:
            indices = parent_indices(count, config.k, self.generator)
            weights = simplex_weights(count, config.k, self.generator, config.simplex)
            sources = codes if config.interpolation_gradient else codes.detach()
            to_decode = torch.cat([codes, interpolate_codes(sources, indices, weights)])
        # One pass for both kinds of codes, so that batch norm's statistics describe both.
        with self._low_precision():
            decoded = self.decoder(to_decode)
        decoded = decoded.float()
        rebuilt = decoded[: len(images)]
        if len(decoded) > len(images):
            paired = indices[: 1 if config.parents_paired == "one" else config.k]
            parents = normals[paired]
            interpolates = decoded[len(images) :]
            if not config.interpolation_gradient:
                interpolates = interpolates.detach()
            mixed = interpolates.expand(len(paired), *interpolates.shape)
        weights = pair_weights(count, len(negatives), config.lambda_neg, self.device)
        return _Pairs(images, rebuilt, parents, mixed, code_norms, weights)

    def _negatives(self, batch: Tensor, anomalies: Tensor | None = None) -> Tensor:
        """Images decoded from atypical codes, (negatives, C, H, W); none during the warm-up.

        E and G in eval mode and without gradient: from here on they are images like any other.
        With `anomalies`, a random choice of those instead.
        """
        config = self.config
        count = min(round(config.negative_share * len(batch)), len(batch) - 1)
        if count == 0 or config.lambda_neg == 0:
            return batch[:0]
        if anomalies is not None:
            chosen = torch.randint(
                len(anomalies), (count,), generator=self.generator, device=self.device
            )
            return to_unit_range(anomalies[chosen.to(anomalies.device)].to(self.device))
        if self.epoch < config.warmup_epochs:
            return batch[:0]
        self.encoder.eval()
        self.decoder.eval()
        with torch.no_grad(), self._low_precision():
            if config.geometry == "shell":
                at_codes = config.radius == "codes"
                typical = self.code_norm if at_codes else math.sqrt(self.latent_dim)
                codes = shell_codes(
                    count,
                    self.latent_dim,
                    typical,
                    config.delta,
                    self.direction,
                    config.radial,
                    self.generator,
                )
            elif config.geometry == "ray":
                # The batch is shuffled, and its last images make room for the negatives.
                sources = self.encoder(batch[-count:]).float()
                codes = ray_codes(sources, config.delta, self.direction, self.generator)
            else:
                codes = cube_codes(self.encoder(batch).float(), count, self.generator)
            images: Tensor = self.decoder(codes).float()
        self.encoder.train()
        self.decoder.train()
        return images

    def _critic_step(self, pairs: _Pairs) -> dict[str, Tensor]:
        config = self.config
        images, rebuilt, parents, mixed, code_norms, weights = pairs
        left = [images, images]
        right = [images, rebuilt]
        if mixed is not None and parents is not None:
            left.append(parents.flatten(0, 1))
            right.append(mixed.flatten(0, 1))
        # Spectral norm's power iteration runs once per step, not once per pass.
        with parametrize.cached():
            values = self._values(left, right)
            same, to_rebuilt = values[: len(images)], values[len(images) : 2 * len(images)]
            to_mixed = None
            if mixed is not None:
                to_mixed = values[2 * len(images) :].view(mixed.shape[:2])
            loss = critic_loss(same, to_rebuilt, to_mixed, weights, config.lambda_inter)
            penalty = torch.zeros((), device=self.device)
            if config.lambda_gp > 0:
                last = 2 if config.penalised == "reconstructions" else len(left)
                penalty = self._penalty(
                    torch.cat(left[1:last]), torch.cat(right[1:last]), len(images)
                )
                loss = loss + config.lambda_gp * penalty
            self.critic_optimizer.zero_grad()
            torch.autograd.backward(loss)
        self.critic_optimizer.step()

        normals = len(code_norms)
        gaps = same - to_rebuilt
        losses = {"critic": loss, "penalty": penalty, "wasserstein": gaps[:normals].mean()}
        if to_mixed is not None:
            losses["interpolation"] = same[:normals].mean() - to_mixed.mean()
        if normals < len(images):
            losses["negatives"] = gaps[normals:].mean()
        return {name: value.detach() for name, value in losses.items()}

    def _values(self, left: list[Tensor], right: list[Tensor]) -> Tensor:
        """The critic's value of many pairs in one pass, in float32."""
        if self.config.precision == "bfloat16":
            # Spectral norm's power iteration, whose result the cache keeps, needs float32.
            for module in self.critic.modules():
                if parametrize.is_parametrized(module, "weight"):
                    _ = module.weight
        with self._low_precision():
            values: Tensor = self.critic(self._pair(torch.cat(left), torch.cat(right)))
        return values.float()

    def _penalty(self, left: Tensor, right: Tensor, rebuilt: int) -> Tensor:
        """Gradient penalty between (x, x) and (x, y) at a random point of each line, a scalar.

        The first `rebuilt` pairs are reconstructions and weigh 1, the others are interpolates and
        weigh `lambda_inter`, as their terms in the loss do.
        """
        shape = (len(left), 1, 1, 1)
        share = torch.rand(shape, generator=self.generator, device=self.device)
        points = self._pair(left, torch.lerp(left, right, share))
        penalties = gradient_penalty(self.critic, points, self.config.penalty_norm)
        total = penalties[:rebuilt].mean()
        if len(left) > rebuilt:
            total = total + self.config.lambda_inter * penalties[rebuilt:].mean()
        return total

    def _autoencoder_step(self, pairs: _Pairs) -> Tensor:
        config = self.config
        images, rebuilt, parents, mixed, code_norms, weights = pairs
        left, right = [images], [rebuilt]
        if mixed is not None and parents is not None and config.interpolation_gradient:
            left.append(parents.flatten(0, 1))
            right.append(mixed.flatten(0, 1))
        self.critic.requires_grad_(False)
        with parametrize.cached():
            values = self._values(left, right)
            to_mixed = values[len(images) :] if len(left) > 1 else None
            loss = autoencoder_loss(
                values[: len(images)],
                to_mixed,
                code_norms,
                weights,
                config.lambda_inter,
                config.lambda_reg,
            )
            self.autoencoder_optimizer.zero_grad()
            torch.autograd.backward(loss)
        self.critic.requires_grad_(True)
        self.autoencoder_optimizer.step()
        return loss.detach()

    def _pair(self, left: Tensor, right: Tensor) -> Tensor:
        return _pair(left, right, self.config.mirrored)

    # --- scoring ----------------------------------------------------------------------------------

    def calibrate(self, images: Tensor) -> None:
        """Mean and standard deviation of R over normal training images (N, C, H, W).

        Raises `DivergedError` when R is constant or not finite: the networks have collapsed.
        """
        self._check_images(images)
        with torch.inference_mode():
            batches = self._batches(images, 256)
            r_of = self._r()
            r = torch.cat([r_of(batch) for batch in batches]).double()
        mean, std = r.mean(), r.std(correction=0)
        if not bool(torch.isfinite(std)) or float(std) <= 1e-12 * max(1.0, float(mean.abs())):
            raise DivergedError(
                f"{self.name} collapsed in epoch {self.epoch}: over {len(r)} training images, R is "
                f"{float(mean):.3g} with standard deviation {float(std):.3g}"
            )
        # clone: tensors born in inference mode cannot take part in training later.
        self.r_mean, self.r_std = mean.float().clone(), std.float().clone()

    @property
    def primary_score(self) -> str:
        """`config.score`: A or R."""
        return self.config.score

    def scorer(self) -> nn.Module:
        """A and R of float images: encoder, generator, critic and the calibration of A."""
        if self.r_mean is None or self.r_std is None:
            raise RequestError("the detector has no calibration yet: call calibrate(images) first")
        return _Scorer(self._r(), self.r_mean, self.r_std)

    def reconstruct(self, images: Tensor) -> Tensor:
        """G(E(x)): (N, C, H, W) -> (N, C, H, W) in [-1, 1], on the CPU."""
        self._check_images(images)
        with torch.inference_mode():
            parts = [self.decoder(self.encoder(b)).cpu() for b in self._batches(images, 256)]
        return torch.cat(parts)

    def _r(self) -> "_RScore":
        return _RScore(self.encoder, self.decoder, self.critic, self.config.mirrored)

    # --- state ------------------------------------------------------------------------------------

    def _networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder, "critic": self.critic}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimisers, schedules, running code norm, calibration, epoch and RNG state."""
        return {
            "networks": {n: m.state_dict() for n, m in self._networks().items()},
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "autoencoder_optimizer": self.autoencoder_optimizer.state_dict(),
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "code_norm": self.code_norm,
            "r_mean": self.r_mean,
            "r_std": self.r_std,
            "epoch": self.epoch,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; training continues exactly where it was."""
        self._captured.clear()
        for name, module in self._networks().items():
            module.load_state_dict(state["networks"][name])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.autoencoder_optimizer.load_state_dict(state["autoencoder_optimizer"])
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.code_norm = state["code_norm"].to(self.device).clone()
        self.r_mean, self.r_std = (
            None if state[name] is None else state[name].to(self.device)
            for name in ("r_mean", "r_std")
        )
        self.epoch = state["epoch"]
        self.generator.set_state(state["generator"].cpu())

    def inference_state(self) -> dict[str, Tensor]:
        """Weights and calibration by flat name, as contiguous CPU tensors."""
        if self.r_mean is None or self.r_std is None:
            raise RequestError("the detector has no calibration yet: call calibrate(images) first")
        return flat_tensors(self._networks(), {"r_mean": self.r_mean, "r_std": self.r_std})

    def load_inference_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore `inference_state`. Raises `ConfigError` when names or shapes do not fit."""
        load_flat_tensors(state, self._networks(), {"r_mean": (), "r_std": ()})
        self.r_mean = state["r_mean"].to(self.device)
        self.r_std = state["r_std"].to(self.device)
