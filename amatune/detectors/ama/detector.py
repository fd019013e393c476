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
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from amatune.config import DetectorConfig, ImageShape
from amatune.detector import Detector, Optimisation, adam, drops, to_unit_range
from amatune.detectors.ama.config import PRESETS, AMAConfig
from amatune.detectors.ama.latent import (
    Direction,
    cube_codes,
    interpolate_codes,
    parent_indices,
    ray_codes,
    shell_codes,
    simplex_weights,
)
from amatune.detectors.ama.losses import (
    autoencoder_loss,
    critic_loss,
    gradient_penalty,
    pair_weights,
)
from amatune.detectors.ama.networks import Critic, Family, build_networks
from amatune.errors import ConfigError
from amatune.nets.capture import CapturedStep
from amatune.nets.scores import WithDistances, means_and_stds, per_complexity, r_score

# Labelled anomalies stand in for what is decoded from atypical codes.
_OF_ATYPICAL_CODES = ("geometry", "radius", "radial", "direction", "delta", "warmup")
CODE_NORM_MEMORY = 0.99  # weight of the past in the running mean code norm, per step


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


def _pair(left: Tensor, right: Tensor, mirrored: bool) -> Tensor:
    """What the critic sees of (left, right), both (N, C, H, W): (N, 2C, H, W) when mirrored,
    `right` alone otherwise, so that D(x, x') becomes D(x')."""
    return torch.cat([left, right], dim=1) if mirrored else right


def _has_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies in bfloat16 at a higher speed: NVIDIA's since Ampere. CPUs that do are
    not told from those that emulate it, at a seventh of the speed."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class _RawScorer(nn.Module):
    """R and RC of float images (B, C, H, W): (B,) each."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, critic: Critic, mirrored: bool
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.critic = encoder, decoder, critic
        self.mirrored = mirrored

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        rebuilt = self.decoder(self.encoder(images))
        # One pass for both: an image's score must not depend on how the pass is split.
        pairs = [_pair(images, other, self.mirrored) for other in (images, rebuilt)]
        features, count = self.critic.features(torch.cat(pairs)), images.shape[0]
        # Slices: `chunk` has no counterpart in ONNX when the batch may have any size.
        r = r_score(features[:count], features[count:])
        return r, per_complexity(r, images)


class AMA(Detector):
    """Adversarial Mirrored Autoencoder; see the module's docstring."""

    name: ClassVar[str] = "ama"
    summary: ClassVar[str] = "Adversarial Mirrored Autoencoder (Somepalli et al., UAI 2021)"
    Config: ClassVar[type[DetectorConfig]] = AMAConfig
    score_names: ClassVar[tuple[str, ...]] = ("A", "R", "AC", "RC")
    raw_score_names: ClassVar[tuple[str, ...]] = ("R", "RC")
    # Of its own A is noise until a third of a training is over, and R is below .5 for anomalies
    # that are simpler than what is normal; see benchmarks/RESULTS.md.
    early_score: ClassVar[str | None] = "auto"
    learns_from_anomalies: ClassVar[bool] = True
    held_with_anomalies: ClassVar[Mapping[str, Any]] = {
        "negative_share": 0.1,
        **{name: getattr(AMAConfig(), name) for name in _OF_ATYPICAL_CODES},
    }
    reconstructs: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("code_norm",)
    fitted: ClassVar[tuple[str, ...]] = ("means", "stds")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    config: AMAConfig

    def __init__(
        self,
        config: AMAConfig,
        image_shape: ImageShape,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(config, image_shape, device, seed)
        config = self.config
        self.latent_dim = cast(int, config.latent_dim)
        self.direction = cast(Direction, config.direction)
        self.encoder, self.decoder, self.critic = build_networks(
            cast(Family, config.network),
            image_shape,
            self.latent_dim,
            width=config.width,
            spectral=bool(config.spectral_norm),
            mirrored=config.mirrored,
            seed=seed,
        )
        self.hold({"encoder": self.encoder, "decoder": self.decoder, "critic": self.critic})
        if config.network == "residual":
            # Measured: 1.15 times the images per second on a CPU; see benchmarks/RESULTS.md.
            for network in self.networks.values():
                network.to(memory_format=torch.channels_last)

        # Running mean norm of normal codes; NaN until a batch has been seen.
        self.code_norm = torch.full((), math.nan, device=self.device)
        self.means = torch.zeros(2, device=self.device)  # of R and RC over normal training images
        self.stds = torch.ones(2, device=self.device)
        self._critic_steps = 0
        self._captured: dict[tuple[object, ...], CapturedStep] = {}
        self._bfloat16 = config.precision == "bfloat16" or (
            config.precision == "auto" and _has_bfloat16(self.device)
        )
        on_gpu = self.device.type == "cuda"
        self._graphs = on_gpu if config.cuda_graphs == "auto" else config.cuda_graphs

    def make_optimisation(self) -> Optimisation:
        """Adam of D, and one of G and E in this order; learning rates drop at `milestones`."""
        config = self.config
        betas, encoder_betas = (config.beta1, config.beta2), (config.beta1_encoder, config.beta2)
        critic: list[dict[str, Any]] = [{"params": list(self.critic.parameters()), "betas": betas}]
        autoencoder: list[dict[str, Any]] = [
            {"params": list(self.decoder.parameters()), "betas": betas},
            {"params": list(self.encoder.parameters()), "betas": encoder_betas},
        ]
        if self.device.type == "cuda" and self._graphs:
            # A captured step reads the learning rate from the device, where schedules change it.
            for group in (*critic, *autoencoder):
                group["lr"] = torch.tensor(config.lr, device=self.device)
        optimizers = {
            "critic": adam(self.device, critic, config.lr, self._graphs),
            "autoencoder": adam(self.device, autoencoder, config.lr, self._graphs),
        }
        schedules = drops(optimizers.values(), config.milestones, config.epochs, config.lr_decay)
        return Optimisation(optimizers, schedules)

    # --- training ---------------------------------------------------------------------------------

    def begin_epoch(self, images: Tensor) -> None:
        """Take up the count of critic steps, which decides whether one has a penalty."""
        super().begin_epoch(images)
        before = self.epoch * self.config.steps_in(len(images))
        self._critic_steps = before * self.config.critic_steps

    def train_step(self, batch: Tensor, anomalies: Tensor | None = None) -> dict[str, Tensor]:
        """`critic_steps` steps of D, then one of E and G, on one float batch (B, C, H, W).

        With labelled `anomalies` (M, C, H, W), the paper's semi-supervised case, those stand in for
        the atypical images: drawn anew for every batch, with replacement, and without a warm-up.

        Returns `wasserstein` E[D(x,x) - D(x,x')] on normals, `interpolation` and `negatives`
        likewise, `penalty` the unweighted gradient penalty where there was one, `critic` and
        `autoencoder` what each player minimised, `code_norm` the mean ||E(x)||, `reconstruction`
        the mean |x - x'| per pixel.
        """
        if anomalies is not None:
            self._check_images(anomalies)
            if wrong := self.config.problems_with_anomalies():
                raise ConfigError("; ".join(wrong))
        penalised = self._next_penalties()
        if not self._graphs:
            return self._play(batch, anomalies, penalised)
        if self.device.type != "cuda":
            raise ConfigError(f"cuda_graphs needs a CUDA device, this is a {self.device.type}")
        return self._captured_step(batch, anomalies, penalised)(batch)

    def _next_penalties(self) -> tuple[bool, ...]:
        """Whether each of the next `critic_steps` has a penalty. Only every `penalty_every`-th has
        one, so many times as heavy (lazy regularisation: Karras et al., StyleGAN2, CVPR 2020)."""
        first, config = self._critic_steps, self.config
        self._critic_steps += config.critic_steps
        return tuple(n % config.penalty_every == 0 for n in range(first, self._critic_steps))

    def _captured_step(
        self, batch: Tensor, anomalies: Tensor | None, penalised: tuple[bool, ...]
    ) -> CapturedStep:
        """The step as a CUDA graph; a new one when what it does or reads has changed."""
        known = None if anomalies is None else anomalies.data_ptr()
        key = (batch.shape, self.epoch < self.config.warmup_epochs, known, penalised)
        if any(old[:-1] != key[:-1] for old in self._captured):
            self._captured.clear()  # the old graphs' memory
        if key not in self._captured:
            step = partial(self._play, anomalies=anomalies, penalised=penalised)
            self._captured[key] = CapturedStep(step, self.generator)
        return self._captured[key]

    def _low_precision(self) -> torch.autocast:
        """Where networks may compute in bfloat16; parameters, losses and penalty never do."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16)

    def _play(
        self, batch: Tensor, anomalies: Tensor | None, penalised: tuple[bool, ...]
    ) -> dict[str, Tensor]:
        """`train_step`, launched operation by operation."""
        pairs = self._make_pairs(batch, anomalies)
        fixed = pairs.detached()
        losses: dict[str, Tensor] = {}
        for has_penalty in penalised:
            losses |= self._critic_step(fixed, has_penalty)
        losses["autoencoder"] = self._autoencoder_step(pairs)
        losses["code_norm"] = fixed.code_norms.mean()
        normals = len(fixed.code_norms)
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
        mean = code_norms.detach().mean()
        memory = torch.lerp(mean, self.code_norm, CODE_NORM_MEMORY)
        self.code_norm.copy_(torch.where(self.code_norm.isnan(), mean, memory))

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
        """Images decoded from atypical codes, (negatives, C, H, W); none during the warm-up, at
        least one of any share.

        E and G in eval mode and without gradient: from here on they are images like any other.
        With `anomalies`, a random choice of those instead.
        """
        config = self.config
        if not config.has_negatives or len(batch) < 2:
            return batch[:0]
        count = min(max(1, round(config.negative_share * len(batch))), len(batch) - 1)
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
                usual = math.sqrt(self.latent_dim)
                typical: Tensor | float = usual
                if config.radius == "codes":  # no batch has been seen where there is no warm-up
                    typical = self.code_norm.nan_to_num(nan=usual)
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

    def _critic_step(self, pairs: _Pairs, penalised: bool = True) -> dict[str, Tensor]:
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
            losses = {}
            if penalised and config.lambda_gp > 0:
                losses["penalty"] = self._penalty(pairs)
                loss = loss + config.lambda_gp * config.penalty_every * losses["penalty"]
            self.descend(loss, "critic")

        normals = len(code_norms)
        gaps = same - to_rebuilt
        losses |= {"critic": loss, "wasserstein": gaps[:normals].mean()}
        if to_mixed is not None:
            losses["interpolation"] = same[:normals].mean() - to_mixed.mean()
        if normals < len(images):
            losses["negatives"] = gaps[normals:].mean()
        return {name: value.detach() for name, value in losses.items()}

    def _values(self, left: list[Tensor], right: list[Tensor]) -> Tensor:
        """The critic's value of many pairs in one pass, in float32."""
        if self._bfloat16:
            # Spectral norm's power iteration, whose result the cache keeps, needs float32.
            for module in self.critic.modules():
                if parametrize.is_parametrized(module, "weight"):
                    _ = module.weight
        with self._low_precision():
            values: Tensor = self.critic(self._pair(torch.cat(left), torch.cat(right)))
        return values.float()

    def _penalty(self, pairs: _Pairs) -> Tensor:
        """Gradient penalty between (x, x) and (x, y) at a random point of each line, a scalar.

        A share `penalty_share` of the pairs of each kind is penalised, the first ones, of every
        parent: batches are shuffled. Reconstructions weigh 1, interpolates `lambda_inter`, as their
        terms in the loss do.
        """
        config, normals = self.config, len(pairs.code_norms)
        # Slices: on a GPU, places in a list would have to come from the host.
        some, of_negatives = self._some(0, normals), self._some(normals, len(pairs.images))
        lefts = [pairs.images[some], pairs.images[of_negatives]]
        rights = [pairs.rebuilt[some], pairs.rebuilt[of_negatives]]
        rebuilt = sum(map(len, rights))
        if pairs.parents is not None and pairs.mixed is not None and config.penalised == "all":
            lefts.append(pairs.parents[:, some].flatten(0, 1))
            rights.append(pairs.mixed[:, some].flatten(0, 1))
        both = torch.cat(lefts), torch.cat(rights)
        shape = (len(both[0]), 1, 1, 1)
        share = torch.rand(shape, generator=self.generator, device=self.device)
        points = self._pair(both[0], torch.lerp(*both, share))
        penalties = gradient_penalty(self.critic, points, config.penalty_norm)
        total = penalties[:rebuilt].mean()
        if len(penalties) > rebuilt:
            total = total + config.lambda_inter * penalties[rebuilt:].mean()
        return total

    def _some(self, start: int, end: int) -> slice:
        """The first `penalty_share` of the places from `start` to `end`, at least one of any."""
        return slice(start, start + math.ceil(self.config.penalty_share * (end - start)))

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
            self.descend(loss, "autoencoder")
        self.critic.requires_grad_(True)
        return loss.detach()

    def _pair(self, left: Tensor, right: Tensor) -> Tensor:
        return _pair(left, right, self.config.mirrored)

    # --- scoring ----------------------------------------------------------------------------------

    def raw_scorer(self) -> nn.Module:
        """R and RC of float images: encoder, generator and critic."""
        return _RawScorer(self.encoder, self.decoder, self.critic, self.config.mirrored)

    def fit(self, raw: Mapping[str, Tensor]) -> None:
        """Mean and standard deviation of R and RC over normal training images."""
        self.means, self.stds = means_and_stds([raw[name] for name in self.raw_score_names])

    def finish_scorer(self, raw: nn.Module) -> nn.Module:
        """A, R, AC and RC."""
        order = ((0, True), (0, False), (1, True), (1, False))
        return WithDistances(raw, order, self.means, self.stds)

    def rebuild(self, batch: Tensor) -> Tensor:
        """G(E(x)): (B, C, H, W) -> the same in [-1, 1]."""
        rebuilt: Tensor = self.decoder(self.encoder(batch))
        return rebuilt

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; training continues exactly where it was."""
        self._captured.clear()
        super().load_state_dict(state)
