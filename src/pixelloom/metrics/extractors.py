"""Feature extractors: images to vectors in which distances say more than distances of pixels.

An extractor is a module from values [B, C, H, W] in [0, 1] to features [B, num_features] that stays in eval mode:
torchmetrics, which takes such a module as ``feature=``, does not call ``.eval()``. Results have the extractor in their
name (``kid-lenet-mnist``), since results of two extractors cannot be compared.

The built-in extractors have at most 64 features, since the Fréchet distance of two samples of one distribution grows
with num_features^2 / N. Published FIDs use the 2048 features of :class:`Inception`, whose weights users provide.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixelloom.core import rng
from pixelloom.core.errors import DataError, ModelError, UsageError, did_you_mean
from pixelloom.core.threads import ThreadChoice
from pixelloom.core.types import Levels
from pixelloom.data.pixels import Scaling, from_model, to_model
from pixelloom.metrics import inception, natural
from pixelloom.metrics.natural import NATURAL

Images: TypeAlias = Tensor | Levels
"""Integer levels, uint8 [N, C, H, W], as a tensor or an array (which may be mapped from a file)."""

LENET = "lenet-mnist"
LENET_SHA256 = "0ada69cc0ba5b83510c96f672834428ed63a27818b64fc33b080152dc03990e6"
RANDOM_SHA256 = "50a141f7a08ee10e5d3fb077efc520da8753d005b4f4d74b5963d0065079c4b1"
DIGITS = frozenset({"mnist", "binarized-mnist", "sevens-and-eights"})
"""Data sets for which ``auto`` is ``lenet-mnist``: digits of MNIST, light on dark, with a margin.

The 8x8 ``digits`` are not among them: without a margin 20 % of them are classified right, with one 88 %.
"""
_log = logging.getLogger("pixelloom")


class Extractor(nn.Module):
    """Values [B, C, H, W] in [0, 1] -> features [B, num_features], for C of 1 or 3; always in eval mode."""

    name: str
    """Part of the names of results: two extractors of one name give the same features."""
    num_features: int
    batch = 256
    """Images per forward pass."""
    device = torch.device("cpu")

    def on(self, device: torch.device) -> Extractor:
        """The extractor, moved to the device of a model unless it is fast on the CPU."""
        return self

    def train(self, mode: bool = True) -> Extractor:
        """Stay in eval mode."""
        return super().train(False)


class Pixels(Extractor):
    """Average pooling to 8x8 for gray images and to 4x4 per channel for RGB (64 and 48 features).

    The pooling is adaptive: area i of n spans rows floor(i H / n) to ceil((i + 1) H / n) - 1, so areas overlap by a row
    or column, or repeat, where n does not divide the side.
    """

    name = "pixels"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.side = 8 if channels == 1 else 4
        self.num_features = channels * self.side**2
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_features]."""
        return F.adaptive_avg_pool2d(x, self.side).flatten(1)


class RandomNetwork(Extractor):
    """A convolutional network with fixed random weights, for images of any kind.

    Images become RGB at 32x32; three convolutions of stride 2 with ReLU, then a linear layer over the 4x4 positions.
    Weights are uniform with variance 2 / fan-in (He et al. 2015), from raw Philox output by exact arithmetic, so they
    are bit-identical on every machine; their hash is checked.
    """

    name = "random"
    num_features = 64
    _SHAPES = ((16, 3, 5, 5), (32, 16, 3, 3), (64, 32, 3, 3), (64, 64 * 16))

    def __init__(self, channels: int) -> None:
        super().__init__()
        digest = hashlib.sha256()
        for i, shape in enumerate(self._SHAPES):
            fan_in = int(np.prod(shape[1:]))
            raw = np.asarray(rng.bits(rng.Stream.EXTRACTOR, i).random_raw(fan_in * shape[0]))
            unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1  # [-1, 1)
            weight = (unit * np.sqrt(6 / fan_in)).astype("<f4").reshape(shape)
            digest.update(weight.tobytes())
            self.register_buffer(f"weight{i}", torch.from_numpy(weight))
        if digest.hexdigest() != RANDOM_SHA256:
            raise ModelError(
                "features random: the weights drawn on this machine are not the specified ones; results could not be "
                "compared"
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] -> [B, 64]."""
        y = _resized(x, 32).expand(-1, 3, -1, -1) * 2 - 1
        for i in range(3):
            weight = self.get_buffer(f"weight{i}")
            y = F.relu(F.conv2d(y, weight, stride=2, padding=weight.shape[-1] // 2))
        return F.linear(y.flatten(1), self.get_buffer("weight3"))


class LeNet(nn.Module):
    """A small classifier of digits after LeCun et al. 1998, with 64 normalized features before the last layer."""

    num_features = 64

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 48, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        )
        self.linear = nn.Linear(48 * 9, 64, bias=False)
        self.norm = nn.BatchNorm1d(64, affine=False)
        self.classes = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] in [0, 1] -> [B, 64] of mean about 0 and variance about 1 over MNIST."""
        y: Tensor = self.norm(self.linear(self.convolutions(x).flatten(1)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] in [0, 1] -> logits [B, 10]."""
        y: Tensor = self.classes(F.relu(self.features(x)))
        return y


class LeNetMnist(Extractor):
    """The features of a LeNet trained on MNIST by ``benchmarks/lenet.py``; weights and model card are in the package.

    Images become gray (ITU-R 601-2 luma, as in Pillow) and 28x28 (bilinear, antialiased when they shrink, without
    keeping the aspect ratio). For light digits on dark. :meth:`classify` gives the digit.
    """

    name = LENET
    num_features = LeNet.num_features

    def __init__(self, channels: int) -> None:
        super().__init__()
        content = resources.files("pixelloom.metrics").joinpath(f"weights/{LENET}.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != LENET_SHA256:
            raise ModelError(f"features {LENET}: the weights in the package are damaged: install pixelloom again")
        self.network = LeNet()
        self.network.load_state_dict(safetensors.torch.load(content))
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] -> [B, 64]."""
        return self.network.features(self._formed(x))

    def classify(self, x: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] in [0, 1] -> digits, int64 [B]."""
        digits: Tensor = self.network(self._formed(x)).argmax(1)
        return digits

    def _formed(self, x: Tensor) -> Tensor:
        if x.shape[1] == 3:
            x = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        return _resized(x, 28)


class Natural(Extractor):
    """The features of a network trained by ``benchmarks/natural.py``, for photographs and drawings.

    Images become RGB and 32x32 (bilinear, antialiased when they shrink, without keeping the aspect ratio). Weights and
    model card are in the package.
    """

    name = NATURAL
    num_features = natural.NaturalNetwork.num_features

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.network = natural.trained()
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] -> [B, 64]."""
        return self.network.features(_resized(x, natural.SIDE).expand(-1, 3, -1, -1))


class Inception(Extractor):
    """The 2048 features of published FIDs, from a file of weights: see :mod:`pixelloom.metrics.inception`.

    Images are converted to bytes. With the published weights the extractor is called ``inception``; with others the
    name has the beginning of the file's SHA-256 too, since results cannot be compared.

    Raises:
        ModelError: for a file that cannot be used.
    """

    num_features = inception.FEATURES
    batch = 16  # 0.3 GB

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.network, sha256 = inception.read(path)
        published = sha256.startswith(inception.PUBLISHED)
        self.name = "inception" if published else f"inception-{sha256[:8]}"
        if not published:
            _log.warning(
                "%s: not the published weights: its SHA-256 begins with %s instead of %s; results are called by %s and "
                "cannot be compared with published ones",
                *(path, sha256[:8], inception.PUBLISHED, self.name),
            )
        self.eval()

    def on(self, device: torch.device) -> Extractor:
        """The extractor, moved to the device."""
        self.device = device
        return self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] -> [B, 2048]."""
        y: Tensor = self.network(from_model(x, 256, Scaling.unit()))
        return y


def _resized(x: Tensor, side: int) -> Tensor:
    if x.shape[2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)


EXTRACTORS: dict[str, Callable[[int], Extractor]] = {
    "lenet-mnist": LeNetMnist,
    "natural": Natural,
    "random": RandomNetwork,
    "pixels": Pixels,
}
"""Name -> extractor for images of 1 or 3 channels."""
INCEPTION = "inception="
"""Prefix of an extractor's name that is followed by the path of its weights."""


def named(name: str) -> str | Extractor:
    """Check the name of an extractor; for ``inception=FILE`` load the extractor.

    Raises:
        UsageError: for any other name.
        ModelError: for a file that cannot be used.
    """
    if name.startswith(INCEPTION) and name != INCEPTION:
        return Inception(Path(name.removeprefix(INCEPTION)).expanduser())
    if name in ("inception", INCEPTION):
        raise UsageError(f"features: inception needs the file of its weights, inception=FILE: {inception.NAMES}")
    if name != "auto":
        choose(name, 1)
    return name


def extractor_for(wish: str | Extractor, channels: int, source: str = "") -> Extractor:
    """An extractor, given itself or by name, for images of 1 or 3 channels; raises as :func:`named`."""
    found = named(wish) if isinstance(wish, str) else wish
    return EXTRACTORS[choose(found, channels, source)](channels) if isinstance(found, str) else found


def choose(name: str, channels: int, source: str = "") -> str:
    """Resolve the name of an extractor: ``auto`` is lenet-mnist for gray images of a data set in DIGITS, else natural.

    Raises:
        UsageError: for a name that is not in EXTRACTORS.
    """
    if name == "auto":
        return LENET if channels == 1 and source in DIGITS else NATURAL
    if name not in EXTRACTORS:
        known = ("auto", *EXTRACTORS)
        there = f"{', '.join(known)}, and inception=FILE for metrics"
        raise UsageError(f"features: there is no {name!r}.{did_you_mean(name, known)} There are {there}")
    return name


def as_levels(images: Images, levels: int, what: str) -> Tensor:
    """Images as a checked uint8 tensor [N, C, H, W] on the CPU.

    Raises:
        DataError: for another shape or type, other than 1 or 3 channels, or levels that are too high.
    """
    # torch has no read-only tensors, so a read-only array (a memory map, say) is copied
    x = torch.as_tensor(images if isinstance(images, Tensor) or images.flags.writeable else images.copy()).cpu()
    if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3):
        raise DataError(f"{what}: metrics take uint8 levels [N, 1 or 3, H, W], not {x.dtype} {list(x.shape)}")
    if x.numel() and int(x.max()) >= levels:
        raise DataError(f"{what}: level {int(x.max())} in images of {levels} levels (0 to {levels - 1})")
    return x


@torch.no_grad()
def features(
    images: Images,
    levels: int,
    extractor: Extractor,
    *,
    batch: int | None = None,
    what: str = "images",
) -> Tensor:
    """Features of each image, float64 [N, d] on the CPU.

    Args:
        images: uint8 [N, C, H, W].
        levels: number of levels.
        extractor: maps values in [0, 1] to features.
        batch: images per forward pass, by default the extractor's; bounds memory, and changes results by rounding only.
        what: name of the images in errors.

    Raises:
        DataError: as :func:`as_levels`.
    """
    x = as_levels(images, levels, what)

    def of(rows: slice) -> Tensor:
        found: Tensor = extractor(to_model(x[rows].to(extractor.device), levels, Scaling.unit()))
        return found.cpu().double()

    with ThreadChoice().tuner(None, torch.device(extractor.device)) as tuner:
        parts = list(tuner.batches(len(x), batch or extractor.batch, of))
    return torch.cat(parts) if len(x) else torch.empty(0, extractor.num_features, dtype=torch.float64)
