"""What would make the host wait for a GPU, noticed without one."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select")


class Watching(TorchDispatchMode):
    """Notes every operation that reads from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func._schema.name.removeprefix("aten::")
        if name in WAITING:
            self.waited.append(name)
        return func(*args, **(kwargs or {}))


class Indexing(TorchFunctionMode):
    """Notes places that come from the host: torch copies them before an operation can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.from_host: list[object] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.from_host += [p for p in places if isinstance(p, (list, range))]
        return func(*args, **(kwargs or {}))
