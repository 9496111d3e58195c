"""Export: from a trained model to a lowered one that the codec can use.

Making the integers is not reproducible, as it calibrates with a pass in floating point. It is done once: the integers
are the exported model, and files name their SHA-256.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pixelloom.codec.execution import Execution
from pixelloom.codec.heads import integer_head
from pixelloom.codec.lowering import MARGIN, PROFILES, Lowering
from pixelloom.codec.model import CodecModel, answer_of
from pixelloom.codec.parallel import ParallelPass
from pixelloom.codec.rules import lower_node
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.pixels import Scaling
from pixelloom.layers.compiled import uncompiled
from pixelloom.models import order_ensemble
from pixelloom.models.inputs import LabelsLike, in_precision
from pixelloom.models.pixel import PixelModel
from pixelloom.sampling.fast.ir import Node
from pixelloom.sampling.fast.passes import fold_affine
from pixelloom.sampling.fast.trace import trace

CALIBRATION = 128
"""Images for calibration, by default."""


def lower(
    model: PixelModel, calibration: Tensor | Levels, profile: int = 1, label: LabelsLike = None
) -> CodecModel:  # fmt: skip
    """Lower a model to integers.

    Args:
        model: a trained pixel model.
        calibration: training images, levels uint8 [N, C, H, W]; about 128 are enough.
        profile: number of the widths.
        label: class of all images, by name or number, of a class-conditional model; None is the null class.

    Raises:
        ModelError: naming what cannot be lowered: a layer, the head, a conditioning image, pixel orders.
        UsageError: for images that do not fit the model, or none, a class that it lacks, or none for a model without
            null class.
    """
    return calibrated(model, calibration, label).lower(profile)


@torch.no_grad()
def calibrated(model: PixelModel, calibration: Tensor | Levels, label: LabelsLike = None) -> Calibrated:
    """Trace a model, and find the ranges of its values; arguments and errors are those of :func:`lower`."""
    calibration = torch.as_tensor(calibration)
    _check(model, calibration)
    spec, labels = model.spec, model.labels_of(label, 1)
    image, scale = image_table(spec, model.description.scaling)
    network = in_precision(uncompiled(model.network), "fp64")
    nodes = fold_affine(trace(network if labels is None else _OfClass(network, labels), spec.shape))
    largest = [0.0] * len(nodes)
    of_output = torch.zeros(nodes[-1].features, dtype=torch.float64)

    def look(number: int, value: Tensor) -> None:
        largest[number] = max(largest[number], float(value.abs().max()))

    run = ParallelPass(nodes, torch.float64)
    for start in range(0, len(calibration), 16):
        levels = calibration[start : start + 16].permute(0, 2, 3, 1).long()  # -> [B, H, W, C]
        out = run(image.double()[levels] * scale, look)
        of_output = torch.maximum(of_output, out.abs().amax((0, 1, 2)))
    card: dict[str, Any] = {"network": model.description.network, "calibration": len(calibration)}
    if labels is not None:
        card["class"] = (*model.description.class_names, None)[int(labels)]
    return Calibrated(model, nodes, largest, of_output, image, scale, card)


@dataclass(frozen=True)
class Calibrated:
    """A traced model with the ranges of its values over the calibration images.

    Attributes:
        model: the model.
        nodes: of its network, batch norms folded.
        largest: largest magnitude of each node.
        of_output: largest magnitude of each output feature.
        image: integers of the levels, int64 [L].
        scale: of these integers.
        card: where the export is from, for people.
    """

    model: PixelModel
    nodes: list[Node]
    largest: list[float]
    of_output: Tensor
    image: Tensor
    scale: float
    card: dict[str, Any]

    @torch.no_grad()
    def lower(self, profile: int = 1) -> CodecModel:
        """The integers of a profile.

        Raises:
            ModelError: naming the layer that cannot be lowered.
        """
        widths, spec, groups = PROFILES[profile], self.model.spec, self.model.head.groups
        head = integer_head(self.model.head, spec, self.of_output * MARGIN, widths.pre)
        lowering = Lowering(self.nodes, self.largest, head.exponents.repeat(groups), self.image, self.scale, widths)
        lowered = lowering.run(lower_node)
        execution = Execution(lowered, spec, groups, torch.float64, fuse=False)
        steps = torch.from_numpy(execution.own_order.steps)
        card = self.card | {"cut": lowering.cuts}
        return CodecModel(lowered, head, spec, groups, steps, answer_of(execution), profile, card)


class _OfClass(nn.Module):
    """A class-conditional network of one class for all images, int64 [1]."""

    label: Tensor

    def __init__(self, network: nn.Module, label: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("label", label, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        out: Tensor = self.network(x, self.label)
        return out


def refuse(model: PixelModel) -> None:
    """Refuse a model whose bytes would depend on more than the image.

    Raises:
        ModelError: for a conditioning image, a palette, or several pixel orders.
    """
    refused: dict[str, Any] = {
        "a conditioning image": model.condition,
        "a palette": model.spec.palette,
        "pixel orders": order_ensemble.orders(model.network) > 1,
    }  # fmt: skip
    for what, present in refused.items():
        if present:
            raise ModelError(f"a model with {what} cannot be exported: the bytes would depend on more than the image")


def _check(model: PixelModel, calibration: Tensor) -> None:
    refuse(model)
    if calibration.dtype != torch.uint8 or tuple(calibration.shape[1:]) != model.spec.shape or not len(calibration):
        raise UsageError(
            f"calibration: levels uint8 [N, {', '.join(map(str, model.spec.shape))}] are needed, not "
            f"{calibration.dtype} {list(calibration.shape)}"
        )
    if int(calibration.max()) >= model.spec.levels:
        raise UsageError(
            f"calibration: the model has {model.spec.levels} levels, and level {int(calibration.max())} occurs"
        )


def image_table(spec: ImageSpec, scaling: Scaling) -> tuple[Tensor, float]:
    """(integers n of all levels, int64 [L]; scale s), so that n s is the level in model space, 0 included.

    Model space is (v - z) / ((L - 1) scale) with z = shift (L - 1). n = 2^k (v - z), for the smallest k <= 3 for which
    it is an integer; if there is none, n is rounded for k = 3.
    """
    zero = scaling.shift * (spec.levels - 1)
    k = next((k for k in range(4) if math.isclose(2**k * zero, round(2**k * zero), abs_tol=1e-9)), 3)
    table = torch.tensor([round(2**k * (level - zero)) for level in range(spec.levels)])
    scale = 1 / ((spec.levels - 1) * scaling.scale * 2**k)
    return table, 1.0 if math.isclose(scale, 1, rel_tol=1e-12) else scale


def entropy(codec: CodecModel, levels: Tensor) -> Tensor:
    """Bits of each image by the integer tables, without a coder's rounding, float64 [N]."""
    bits = []
    for image in torch.split(levels, 1):
        _, count = codec.intervals(image)
        bits.append((24 - count.double().log2()).sum())
    return torch.stack(bits)
