"""What adversarial methods share: seeded dropout, a leaky ReLU that penalties are cheap with,
averaged weights, losses, who steps."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.autograd import Function
from torch.nn.functional import softplus
from torch.optim import Optimizer

from amatune.detector import Optimisation, adam

# Of a discriminator that has won: GANomaly and Skip-GANomaly begin with a new one below it.
RESET_BELOW = 1e-5


class Dropout(nn.Module):
    """Dropout whose masks come from `generator`, on the activations' device; without one, or in
    eval mode, nothing happens."""

    def __init__(self, share: float, generator: Generator | None) -> None:
        super().__init__()
        self.share, self.generator = share, generator

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same; what is kept grows by 1 / (1 - share)."""
        if not self.training or self.generator is None or self.share == 0:
            return x
        draws = torch.rand(x.shape, generator=self.generator, device=x.device)
        return x * (draws >= self.share).to(x.dtype).div_(1 - self.share)


def average_into(average: nn.Module, module: nn.Module, memory: float) -> None:
    """average <- memory * average + (1 - memory) * module, weights and batch norm's statistics.

    Weights that are normalised in `module` enter as normalised; in `average` they are plain.
    """
    with torch.no_grad():
        for path, own in average.named_modules():
            source = module.get_submodule(path)
            tensors = [*own.named_parameters(recurse=False), *own.named_buffers(recurse=False)]
            for name, tensor in tensors:
                value = getattr(source, name)
                if tensor.is_floating_point():
                    tensor.lerp_(value, 1 - memory)
                else:
                    tensor.copy_(value)  # batch norm's count of batches


def cross_entropy(logits: Tensor, label: Literal[0, 1]) -> Tensor:
    """Mean binary cross entropy of logits (N,) that all should say `label`, a scalar."""
    return softplus(-logits if label else logits).mean()


def two_sided(real: Tensor, fake: Tensor) -> Tensor:
    """What a discriminator minimises: logits (N,) of true pairs should say 1, of others 0."""
    return cross_entropy(real, 1) + cross_entropy(fake, 0)


def adam_each(
    device: torch.device, networks: Mapping[str, nn.Module], lr: float, **options: Any
) -> Optimisation:
    """An Adam for each of the networks, by its name."""
    return Optimisation(
        {n: adam(device, network.parameters(), lr, **options) for n, network in networks.items()}
    )


def descend_alone(loss: Tensor, optimizer: Optimizer, keep_graph: bool = False) -> None:
    """One step down a scalar's gradient in the optimiser's own parameters; no others get one.

    So one pass serves two players whose losses are parts of it: the first to step keeps the graph.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    torch.autograd.backward(loss, inputs=parameters, retain_graph=keep_graph)
    optimizer.step()


class _Sloped(Function):
    """`values` where `x`, of the same shape, is above 0, elsewhere `slope` times them: the leaky
    ReLU of `x` itself, and its gradient too. Has no derivative by `x`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, x: Tensor, slope: float) -> Tensor:
        found: Tensor = torch.ops.aten.leaky_relu_backward(values, x, slope, False)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - Function's signature
        _, x, ctx.slope = inputs
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)  # nothing stays nothing, instead of zeros

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        if gradient is None:
            return None, None, None
        (x,) = ctx.saved_tensors
        return _Sloped.apply(gradient, x, ctx.slope), None, None


class PenalisedLeakyReLU(nn.LeakyReLU):
    """Leaky ReLU, for critics with a gradient penalty: its second derivative is nothing.

    That of torch is a tensor of zeros, which the penalty's backward pass then carries through every
    layer of the first forward pass: a third of its time, for nothing. All values are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        if not x.requires_grad:
            return super().forward(x)
        found: Tensor = _Sloped.apply(x, x.detach(), self.negative_slope)
        return found


def safe_norm(x: Tensor) -> Tensor:
    """L2 norm over dimension 1 whose derivative at zero is zero instead of NaN."""
    return (x.square().sum(dim=1) + 1e-12).sqrt()
