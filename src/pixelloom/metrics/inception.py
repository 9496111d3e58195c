"""The network of published FIDs: the Inception-v3 of TensorFlow, 2015-12-05, without its classification layer.

Users provide the file of weights (docs/metrics.md says where to get it); nothing is downloaded, and no code in the file
is run. The network follows Szegedy et al. 2015 (arXiv 1512.00567) except where that release differs: average pooling
excludes the padding, and the last block has max pooling where the one before it has average pooling.

Images are resized as in TensorFlow and torch-fidelity: pixel i of the result lies at i * size / 299 of the image,
without a shift by half a pixel. (pytorch-fid shifts, so its FIDs differ.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelloom.core.errors import ModelError

PUBLISHED = "6726825d"
"""Beginning of the SHA-256 of the published weights, which pytorch-fid and torch-fidelity share."""
NAMES = f"pt_inception-2015-12-05-{PUBLISHED}.pth (or weights-inception-2015-12-05-{PUBLISHED}.pth)"
SIDE = 299
_EPSILON = 1e-3  # of the batch norms
_LARGEST = 1 << 30  # bytes; the published file has 96 million


class Conv(NamedTuple):
    """A convolution without bias, a batch norm and a ReLU; its tensors are ``<name>.conv.*`` and ``<name>.bn.*``."""

    name: str
    outputs: int
    kernel: tuple[int, int]
    """Height and width."""
    stride: int = 1
    padded: bool = True
    """Whether a stride of 1 keeps the size."""


class Pool(NamedTuple):
    """Average or max pooling over 3x3 pixels."""

    kind: str
    stride: int = 1
    """1 keeps the size; 2 is without padding."""


class Concat(NamedTuple):
    """Parallel branches whose features are concatenated; ``name`` is a prefix of theirs."""

    name: str
    branches: tuple[Branch, ...]


Step: TypeAlias = Conv | Pool | Concat
Branch: TypeAlias = tuple[Step, ...]

_POINT, _SQUARE, _ROW, _COLUMN = (1, 1), (3, 3), (1, 7), (7, 1)
_HALF = Pool("max", 2)


def _fine(name: str, pooled: int) -> Concat:
    """A block at 35x35."""
    return Concat(
        name,
        (
            (Conv("branch1x1", 64, _POINT),),
            (Conv("branch5x5_1", 48, _POINT), Conv("branch5x5_2", 64, (5, 5))),
            (
                Conv("branch3x3dbl_1", 64, _POINT),
                Conv("branch3x3dbl_2", 96, _SQUARE),
                Conv("branch3x3dbl_3", 96, _SQUARE),
            ),
            (Pool("mean"), Conv("branch_pool", pooled, _POINT)),
        ),
    )


def _middle(name: str, width: int) -> Concat:
    """A block at 17x17: 7x7 as rows and columns."""
    return Concat(
        name,
        (
            (Conv("branch1x1", 192, _POINT),),
            (
                Conv("branch7x7_1", width, _POINT),
                Conv("branch7x7_2", width, _ROW),
                Conv("branch7x7_3", 192, _COLUMN),
            ),
            (
                Conv("branch7x7dbl_1", width, _POINT),
                Conv("branch7x7dbl_2", width, _COLUMN),
                Conv("branch7x7dbl_3", width, _ROW),
                Conv("branch7x7dbl_4", width, _COLUMN),
                Conv("branch7x7dbl_5", 192, _ROW),
            ),
            (Pool("mean"), Conv("branch_pool", 192, _POINT)),
        ),
    )


def _coarse(name: str, pool: str) -> Concat:
    """A block at 8x8, in which two branches end in a fork."""

    def fork(stem: str) -> Concat:
        return Concat("", ((Conv(f"{stem}a", 384, (1, 3)),), (Conv(f"{stem}b", 384, (3, 1)),)))

    return Concat(
        name,
        (
            (Conv("branch1x1", 320, _POINT),),
            (Conv("branch3x3_1", 384, _POINT), fork("branch3x3_2")),
            (Conv("branch3x3dbl_1", 448, _POINT), Conv("branch3x3dbl_2", 384, _SQUARE), fork("branch3x3dbl_3")),
            (Pool(pool), Conv("branch_pool", 192, _POINT)),
        ),
    )


LAYERS: Branch = (
    Conv("Conv2d_1a_3x3", 32, _SQUARE, stride=2, padded=False),
    Conv("Conv2d_2a_3x3", 32, _SQUARE, padded=False),
    Conv("Conv2d_2b_3x3", 64, _SQUARE),
    _HALF,
    Conv("Conv2d_3b_1x1", 80, _POINT),
    Conv("Conv2d_4a_3x3", 192, _SQUARE, padded=False),
    _HALF,
    _fine("Mixed_5b", 32),
    _fine("Mixed_5c", 64),
    _fine("Mixed_5d", 64),
    Concat(
        "Mixed_6a",
        (
            (Conv("branch3x3", 384, _SQUARE, stride=2, padded=False),),
            (
                Conv("branch3x3dbl_1", 64, _POINT),
                Conv("branch3x3dbl_2", 96, _SQUARE),
                Conv("branch3x3dbl_3", 96, _SQUARE, stride=2, padded=False),
            ),
            (_HALF,),
        ),
    ),
    _middle("Mixed_6b", 128),
    _middle("Mixed_6c", 160),
    _middle("Mixed_6d", 160),
    _middle("Mixed_6e", 192),
    Concat(
        "Mixed_7a",
        (
            (Conv("branch3x3_1", 192, _POINT), Conv("branch3x3_2", 320, _SQUARE, stride=2, padded=False)),
            (
                Conv("branch7x7x3_1", 192, _POINT),
                Conv("branch7x7x3_2", 192, _ROW),
                Conv("branch7x7x3_3", 192, _COLUMN),
                Conv("branch7x7x3_4", 192, _SQUARE, stride=2, padded=False),
            ),
            (_HALF,),
        ),
    ),
    _coarse("Mixed_7b", "mean"),
    _coarse("Mixed_7c", "max"),
)
FEATURES = 2048
_CLASSES = {"fc.weight": (1008, FEATURES), "fc.bias": (1008,)}  # in the file, but not needed for features


class Folded(nn.Conv2d):
    """A convolution with its batch norm folded in, then a ReLU."""

    def __init__(self, key: str, inputs: int, conv: Conv) -> None:
        padding = (conv.kernel[0] // 2, conv.kernel[1] // 2) if conv.padded else 0
        super().__init__(inputs, conv.outputs, conv.kernel, conv.stride, padding)
        self.key = key

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its tensors."""
        norm = {f"{self.key}.bn.{name}": (self.out_channels,) for name in ("weight", "bias", *_MOMENTS)}
        return {f"{self.key}.conv.weight": tuple(self.weight.shape)} | norm

    def fold(self, tensors: Mapping[str, Tensor]) -> None:
        """g (w * x - m) / sqrt(v + eps) + b = (s w) * x + (b - s m) with s = g / sqrt(v + eps)."""
        weight, *norm = (tensors[name] for name in self.shapes())
        g, b, m, v = (x.double() for x in norm)
        scale = g / (v + _EPSILON).sqrt()
        self.weight = nn.Parameter(weight.float() * scale.float()[:, None, None, None], requires_grad=False)
        self.bias = nn.Parameter((b - scale * m).float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        return F.relu(super().forward(x), inplace=True)


_MOMENTS = ("running_mean", "running_var")


class SideBySide(nn.ModuleList):
    """The module of a :class:`Concat`."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, sum of the branches' features, H', W']."""
        return torch.cat([branch(x) for branch in self], 1)


class Pooling(nn.Module):
    """The module of a :class:`Pool`."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        kind = F.max_pool2d if pool.kind == "max" else partial(F.avg_pool2d, count_include_pad=False)
        self.pool = partial(kind, kernel_size=3, stride=pool.stride, padding=1 if pool.stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W']."""
        return self.pool(x)


def _built(branch: Branch, inputs: int, prefix: str = "") -> tuple[nn.Sequential, int]:
    """The layers of a branch and the number of their output features."""
    layers = nn.Sequential()
    for step in branch:
        if isinstance(step, Conv):
            layers.append(Folded(prefix + step.name, inputs, step))
            inputs = step.outputs
        elif isinstance(step, Pool):
            layers.append(Pooling(step))
        else:
            within = f"{prefix}{step.name}." if step.name else prefix
            branches, widths = zip(*(_built(each, inputs, within) for each in step.branches), strict=True)
            layers.append(SideBySide(branches))
            inputs = sum(widths)
    return layers, inputs


class InceptionV3(nn.Module):
    """Bytes [B, 1 or 3, H, W] with values 0 to 255, of any size -> features [B, 2048].

    Raises:
        ModelError: for ``tensors`` that are not those of this network.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str = "tensors") -> None:
        super().__init__()
        with torch.device("meta"):  # without initial weights
            self.layers, _ = _built(LAYERS, 3)
        convolutions = [layer for layer in self.layers.modules() if isinstance(layer, Folded)]
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in convolutions:
            shapes |= layer.shapes()
        _check(tensors, shapes | _CLASSES, source)
        for layer in convolutions:
            layer.fold(tensors)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] -> [B, 2048]."""
        x = (enlarged(x.float(), SIDE) - 128) / 128
        # TensorFloat-32, the default of convolutions on CUDA, has a mantissa of 10 bits
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            y: Tensor = self.layers(x.expand(-1, 3, -1, -1)).mean((2, 3))
        return y


def enlarged(x: Tensor, side: int) -> Tensor:
    """[B, C, H, W] -> [B, C, side, side], bilinear as in TensorFlow 1: y(i) = x(i * size / side), clamped to the edge.

    As there, without antialiasing.
    """
    for dim in (3, 2):
        size = x.shape[dim]
        at = torch.arange(side, dtype=torch.float32, device=x.device) * torch.tensor(size / side, dtype=torch.float32)
        low = at.long()
        share = at - low
        first, second = (x.index_select(dim, place) for place in (low, (low + 1).clamp_max(size - 1)))
        x = first + (second - first) * (share if dim == 3 else share[:, None])
    return x


def read(path: Path) -> tuple[InceptionV3, str]:
    """Load the network from a file; also returns the file's SHA-256.

    Raises:
        ModelError: for a file that is missing, damaged, of another network, or contains more than tensors.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise ModelError(f"{path}: {what}; features inception=FILE needs {NAMES}, see docs/metrics.md")
    if path.stat().st_size > _LARGEST:
        raise ModelError(f"{path}: too large for weights of Inception-v3; use {NAMES}")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    tensors = _tensors(path)
    if not (isinstance(tensors, Mapping) and all(isinstance(x, Tensor) for x in tensors.values())):
        raise ModelError(f"{path}: is not a dictionary of tensors; use {NAMES}")
    return InceptionV3(tensors, str(path)), sha256


def _tensors(path: Path) -> object:
    """The contents of a file of tensors and plain containers."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return cast(object, torch.load(path, map_location="cpu", weights_only=True))
    except MemoryError:
        raise
    except Exception as error:  # torch raises errors of many classes
        if "GLOBAL" in str(error) or "TorchScript" in str(error):
            why = "contains more than tensors and would run code when loaded, which Pixelloom refuses"
        else:
            why = "is damaged or not a file of weights"
        raise ModelError(f"{path}: {why}; use {NAMES}") from error


def _check(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Raise ModelError naming the first tensor that is missing, unexpected, of another shape or not of floats."""
    for wrong in _faults(tensors, shapes):
        raise ModelError(f"{source}: not the Inception-v3 of published FIDs: {wrong}; use {NAMES}")


def _faults(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name, shape in shapes.items():
        if name not in tensors:
            yield f"{name} is missing"
        elif tuple(tensors[name].shape) != shape:
            yield f"{name} is {list(tensors[name].shape)}, not {list(shape)}"
        elif not tensors[name].is_floating_point():
            yield f"{name} is of {tensors[name].dtype}"
    for name in tensors:
        if name not in shapes and not name.endswith(".num_batches_tracked"):  # a counter of torch without effect
            yield f"{name} is unexpected"
