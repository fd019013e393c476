"""Networks and fitted values as one flat dictionary of tensors: the form of an export."""

from collections.abc import Mapping

from torch import Tensor, nn

from amatune.errors import ConfigError


def flat_tensors(
    networks: Mapping[str, nn.Module], fitted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`<network>.<key>` for all that the networks hold, and `fitted` under its own names.

    The tensors are contiguous and on the CPU.
    """
    tensors = {**_by_flat_name(networks), **fitted}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def load_flat_tensors(
    state: Mapping[str, Tensor],
    networks: Mapping[str, nn.Module],
    fitted: Mapping[str, tuple[int, ...]],
) -> None:
    """Take the networks' part out of `state`, made by `flat_tensors`; `fitted` has the shapes of
    the other values.

    Raises `ConfigError`, and loads nothing, when names or shapes do not fit.
    """
    expected = {name: tuple(value.shape) for name, value in _by_flat_name(networks).items()}
    expected |= fitted
    wrong = sorted(
        name
        for name in expected.keys() | state.keys()
        if name not in state or tuple(state[name].shape) != expected.get(name)
    )
    if wrong:
        raise ConfigError(
            f"the weights do not belong to this configuration: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, among them {wrong[0]}"
        )
    for name, module in networks.items():
        module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})


def _by_flat_name(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in networks.items()
        for key, value in module.state_dict().items()
    }
