"""A network as one vector."""

import torch
from torch import Tensor, nn


def vector(network: nn.Module) -> Tensor:
    """Its weights, without gradients, in whatever memory format they are."""
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])
