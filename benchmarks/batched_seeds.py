"""Would several seeds of one configuration train faster as one batched model?

    python benchmarks/batched_seeds.py --threads 1
    python benchmarks/batched_seeds.py --device cuda --width 1 --batch 256

Compares the gradients of `--seeds` critics on a batch of pairs each, computed one after the other,
with the same gradients from one `torch.func.vmap` over their stacked weights. A critic's passes are
most of AMA's work. Without spectral norm and penalty, which vmap does not take as they are: what is
measured is the most that batching could give.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from throughput import SHAPES, seconds
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from amatune.detectors.ama.networks import build_networks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads")
    for family, shape in SHAPES.items():
        one, all_at_once, batch = prepare(family, shape, arguments)
        for run in (one, all_at_once):
            seconds(run, batch, 1)
        ratios = [
            seconds(one, batch, 1) / seconds(all_at_once, batch, 1) for _ in range(arguments.rounds)
        ]
        print(
            f"{family}, width {arguments.width:g}, {arguments.seeds} seeds with batches of "
            f"{arguments.batch}: batched is {statistics.median(ratios):.2f} times as fast"
        )


def prepare(
    family: str, shape: tuple[int, int, int], arguments: argparse.Namespace
) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None], Tensor]:
    """One by one, all at once, and what both take."""
    critics = [
        build_networks(
            family,  # type: ignore[arg-type]
            shape,
            64,
            width=arguments.width,
            spectral=False,
            seed=seed,
        ).critic.to(arguments.device)
        for seed in range(arguments.seeds)
    ]
    channels, *size = shape
    pairs = torch.rand(
        arguments.seeds, arguments.batch, 2 * channels, *size, device=arguments.device
    )
    stacked, buffers = stack_module_state(critics)  # type: ignore[arg-type]

    def loss(weights: dict[str, Tensor], kept: dict[str, Tensor], own: Tensor) -> Tensor:
        value: Tensor = functional_call(critics[0], (weights, kept), (own,))
        return value.mean()

    batched = vmap(grad(loss))

    def one_by_one(batch: Tensor) -> None:
        for critic, own in zip(critics, batch, strict=True):
            critic.zero_grad()
            critic(own).mean().backward()

    def all_at_once(batch: Tensor) -> None:
        batched(stacked, buffers, batch)

    return one_by_one, all_at_once, pairs


if __name__ == "__main__":
    main()
