"""Training speed of AMA: images per second, each trick's gain, the share of the machine's peak.

    python benchmarks/throughput.py                          # this code alone
    python benchmarks/throughput.py --authors PATH           # and against the authors' public code
    python benchmarks/throughput.py --device cuda --batch 256

PATH is a checkout of github.com/somepago/AMA; nothing of it is part of this project. All variants
run in one process, in turn, and what is printed is the median of the ratios of neighbouring runs:
the machine may be as noisy as it likes. Multiply-adds are those of matrix products and convolutions
alone, forward and backward, by torch's own formulas.
"""

import argparse
import contextlib
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from amatune.detectors.ama import AMA, AMAConfig, networks

SHAPES = {"residual": (3, 32, 32), "small": (1, 28, 28)}
Step = Callable[[Tensor], object]


class Repeating(AMA):
    """Makes reconstructions, interpolates and negatives anew for every critic step."""

    def train_step(self, batch: Tensor, anomalies: Tensor | None = None) -> dict[str, Tensor]:
        """Like `AMA.train_step`."""
        for _ in range(self.config.critic_steps):
            losses = self._critic_step(self._make_pairs(batch, anomalies).detached())
        losses["autoencoder"] = self._autoencoder_step(self._make_pairs(batch, anomalies))
        return losses


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Convolutions and the resampling beside them as separate operations."""

    def pooled(self: networks.PooledConv2d, x: Tensor) -> Tensor:
        return avg_pool2d(conv2d(x, self.weight, self.bias, padding=1), 2)

    def upsampled(self: networks.UpsampledConv2d, x: Tensor) -> Tensor:
        return conv2d(interpolate(x, scale_factor=2), self.weight, self.bias, padding=1)

    originals = networks.PooledConv2d.forward, networks.UpsampledConv2d.forward
    networks.PooledConv2d.forward, networks.UpsampledConv2d.forward = pooled, upsampled  # type: ignore[method-assign]
    try:
        yield
    finally:
        networks.PooledConv2d.forward, networks.UpsampledConv2d.forward = originals  # type: ignore[method-assign]


def ours(arguments: argparse.Namespace, kind: type[AMA] = AMA, **settings: object) -> Step:
    """One training step of this code with the authors' losses, after the warm-up."""
    return detector(arguments, kind, **settings).train_step


def detector(arguments: argparse.Namespace, kind: type[AMA] = AMA, **settings: object) -> AMA:
    """In the state of training."""
    config = AMAConfig.from_dict(
        {
            **AMA.presets["authors-code"],
            "network": arguments.family,
            "width": arguments.width,
            "batch_size": arguments.batch,
            "warmup": 0.0,
            "direction": "inward",
            **settings,
        }
    )
    made = kind(config, SHAPES[arguments.family], arguments.device)
    for network in made.networks.values():
        network.train()
    return made


def settings(arguments: argparse.Namespace) -> dict[str, Step]:
    """The same step under other settings of torch."""
    device = arguments.device
    formats = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
    own = "channels-last" if arguments.family == "residual" else "contiguous"
    found: dict[str, Step] = {}
    for name, memory_format in formats.items():
        if name != own:
            made = detector(arguments)
            for network in made.networks.values():
                network.to(memory_format=memory_format)  # type: ignore[call-overload]
            found[f"weights {name} instead of {own}"] = made.train_step

    made = detector(arguments)
    for optimizer in made.optimisation.optimizers.values():
        for group in optimizer.param_groups:
            group["fused"] = True
    found["Adam as one kernel"] = made.train_step

    found["bfloat16 passes"] = ours(arguments, precision="bfloat16")

    # Compilers cannot differentiate twice: the penalty calls the critic as it is.
    made = detector(arguments)
    made.encoder.compile()
    made.decoder.compile()
    compiled = torch.compile(made._values)
    made._values = compiled  # type: ignore[method-assign]
    found["encoder, generator and critic's values compiled"] = made.train_step

    if device == "cpu":
        plain = ours(arguments)

        def without_onednn(batch: Tensor) -> None:
            with torch.backends.mkldnn.flags(enabled=False):
                plain(batch)

        found["without oneDNN"] = without_onednn
        other = 1 if arguments.threads > 1 else 2
        threaded = ours(arguments)

        def with_threads(batch: Tensor) -> None:
            torch.set_num_threads(other)
            threaded(batch)
            torch.set_num_threads(arguments.threads)

        found[f"{other} threads"] = with_threads
    return found


class Authors(NamedTuple):
    """The authors' networks, and one training step on images (B, 3, 32, 32) in [-1, 1]."""

    encoder: nn.Module
    generator: nn.Module
    critic: nn.Module
    step: Step


def authors(place: Path, width: float, device: str, negatives: bool = True) -> Authors:
    """A training put together from the networks and loss functions of a checkout."""
    sys.path.insert(0, str(place))
    sys.modules["wandb"] = types.ModuleType("wandb")  # imported there, not used by these parts
    from cifar_models_bNorm import (  # type: ignore[import-not-found]
        Encoder,
        ResnetDiscriminator32,
        ResnetGenerator32,
    )
    from interpolation import (  # type: ignore[import-not-found]
        recon_discriminator_loss,
        recon_loss_joint,
    )

    encoder = Encoder(ngpu=1, ndf=round(32 * width), nz=128, nc=3).to(device)
    generator = ResnetGenerator32(ch=round(256 * width), z_dim=128).to(device)
    critic = ResnetDiscriminator32(stack=6, ch=round(128 * width), spectral_norm=1).to(device)
    nets = (encoder, generator, critic)
    momenta = ((0.5, 0.9), (0.0, 0.9), (0.0, 0.9))
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=3e-4, betas=betas)
        for net, betas in zip(nets, momenta, strict=True)
    ]
    weights = {"anom_lambda": 5, "ip_lambda": 0.5}

    def zero() -> None:
        for net in nets:
            net.zero_grad()

    def step(images: Tensor) -> None:
        images = images.clone()
        count = len(images) // 10 if negatives else 0
        labels = torch.ones(len(images), dtype=torch.long, device=device)
        labels[:count] = -1
        encoder.eval()
        generator.eval()
        with torch.no_grad():
            factors = torch.rand(count, 1, device=device) * 0.5
            if count:
                images[:count] = generator(factors * encoder(images[:count]))
        encoder.train()
        generator.train()
        for _ in range(5):
            zero()
            loss = recon_discriminator_loss(
                images, labels, critic, encoder, generator, use_penalty=True, **weights
            )
            loss.backward()
            optimizers[2].step()
        norms = torch.norm(encoder(images[labels == 1]), dim=1).mean()
        loss = norms + recon_loss_joint(images, labels, generator, encoder, critic, **weights)
        zero()
        loss.backward()
        optimizers[1].step()
        optimizers[0].step()

    return Authors(encoder, generator, critic, step)


def seconds(step: Step, images: Tensor, repeats: int) -> float:
    """Time of one step."""
    wait(images)
    start = time.perf_counter()
    for _ in range(repeats):
        step(images)
    wait(images)
    return (time.perf_counter() - start) / repeats


def wait(images: Tensor) -> None:
    """Let the device finish what it was given."""
    if images.is_cuda:
        torch.cuda.synchronize()


def matrix_peak(device: str, kind: str = "float32") -> float:
    """Multiply-adds per second of a large matrix product, the best of ten."""
    size = 8192 if device == "cuda" else 1536 if kind == "float32" else 256
    dtype = getattr(torch, kind)
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds(lambda _: torch.mm(a, b), a, 1) for _ in range(10))
    return size**3 / best


class Counting(TorchDispatchMode):
    """Adds up torch's operation counts; `FlopCounterMode` does not support `autograd.grad`."""

    flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Run the operation and count it."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def scoring_share(arguments: argparse.Namespace, images: Tensor) -> float:
    """Time of scoring a batch over that of training on it."""
    made = detector(arguments)
    step = made.train_step
    ratios = []
    for _ in range(arguments.rounds + 1):
        trained = seconds(step, images, arguments.repeats)
        for network in made.networks.values():
            network.eval()
        ratios.append(seconds(made.calibrate, images, arguments.repeats) / trained)
        for network in made.networks.values():
            network.train()
    return statistics.median(ratios[1:])


def multiply_adds(step: Step, images: Tensor) -> float:
    """Of one step, per image."""
    with Counting() as counting:
        step(images)
    return counting.flops / 2 / len(images)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--family", choices=SHAPES, default="residual")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1, help="steps in a round")
    parser.add_argument("--settings", action="store_true", help="also compare torch's settings")
    parser.add_argument("--authors", type=Path, help="checkout of github.com/somepago/AMA")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")

    shape = SHAPES[arguments.family]
    images = torch.rand(arguments.batch, *shape, device=arguments.device) * 2 - 1
    base = ours(arguments)
    plain_step = ours(arguments, Repeating)

    def plain(batch: Tensor) -> None:
        with unfused():
            plain_step(batch)

    variants: dict[str, Step] = {
        "plain: nothing shared, nothing fused": plain,
        "shared: pairs made once per batch": _unfused(ours(arguments)),
        "fused: resampling folded into convolutions": ours(arguments, Repeating),
    }
    if arguments.settings:
        variants |= settings(arguments)
    if arguments.authors:
        if arguments.family != "residual":
            parser.error("the authors' code has the residual networks alone")
        theirs = authors(arguments.authors, arguments.width, arguments.device)
        variants["the authors' code"] = theirs.step

    peak = matrix_peak(arguments.device)
    work = multiply_adds(base, images)
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{platform.machine()}, {arguments.device}, {arguments.threads} threads, {versions}")
    print(
        f"{arguments.family} {'x'.join(map(str, shape))}, width {arguments.width}, "
        f"batch {arguments.batch}, 5 critic steps, losses of the authors' code"
    )
    print(f"matrix peak {peak / 1e9:.1f} G multiply-adds/s; {work / 1e6:.1f} M a step and image")
    print(f"{'':44}{'M mult-adds':>12}{'images/s':>10}{'gain':>7}")
    best = []
    for name, step in variants.items():
        seconds(step, images, 1)
        ratios, times = [], []
        for _ in range(arguments.rounds):
            other = seconds(step, images, arguments.repeats)
            mine = seconds(base, images, arguments.repeats)
            ratios.append(other / mine)
            times.append(other)
            best.append(mine)
        per_second = arguments.batch / statistics.median(times)
        macs = multiply_adds(step, images) / 1e6
        print(f"{name:44}{macs:12.1f}{per_second:10.2f}{statistics.median(ratios):7.2f}")
    per_second = arguments.batch / statistics.median(best)
    print(f"{'amatune':44}{work / 1e6:12.1f}{per_second:10.2f}")
    print(f"share of the matrix peak: {work * per_second / peak:.0%}")
    print(f"scoring an image takes {scoring_share(arguments, images):.1%} of training on it once")


def _unfused(step: Step) -> Step:
    def run(batch: Tensor) -> None:
        with unfused():
            step(batch)

    return run


if __name__ == "__main__":
    main()
