"""NADE: the image as one line of values, a hidden layer that grows by one value at a time, weights shared by all.

    a_1     = c
    h_i     = sigmoid(a_i)
    p(x_i | x_<i) from V_i h_i + b_i
    a_{i+1} = a_i + W_i x_i

The values come in raster order and, where the channels of a pixel are ordered, channel by channel within it; otherwise
all channels of a pixel are predicted from the same h. All a_i of an image are one running sum, so training takes one
pass, and each a_i costs the sampler one addition. The paper has binary x and one logit; here V_i h_i + b_i are the
parameters of any head, and x_i is the value in model space, whatever its levels.

Source: Larochelle, Murray 2011, "The Neural Autoregressive Distribution Estimator".
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import ClassBias, check_given
from pixelloom.layers.reads import HERE, Read
from pixelloom.layers.recurrent import RasterSum
from pixelloom.layers.shifted_conv import Shift


class NADEConfig(BaseModel):
    """What a NADE looks like; the default is the paper's for binarized MNIST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(500, ge=1, le=16_384, description="features of the hidden layer")
    activation: Literal["sigmoid", "relu", "silu"] = Field("sigmoid", description="of the hidden layer")


class NADE(nn.Module):
    """[B, C, H, W] pixels in model space -> [B, outputs, H, W] parameters, output position i reading pixels before i.

    Args:
        config: the layers.
        spec: the images; their size is fixed, each value has weights of its own.
        outputs: parameters a position, all image channels together; the head knows how many it needs.
        groups: image channels that are ordered within a pixel, or 1 if a pixel's channels do not see each other.
        classes: how many there are; 0 for a network that is not told any. A label moves a_1.

    Raises:
        ValueError: if the groups do not divide the outputs.
    """

    def __init__(self, config: NADEConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0) -> None:
        super().__init__()
        if outputs % groups:
            raise ValueError(f"{outputs} outputs cannot be shared among {groups} image channels")
        channels, height, width = spec.shape
        self.channels, self.outputs, self.groups = channels, outputs, groups
        # W and V, a vector for each value: [channels or outputs, hidden, H, W].
        self.enter = nn.Parameter(torch.randn(channels, config.hidden, height, width) / math.sqrt(spec.dims))
        self.leave = nn.Parameter(torch.zeros(outputs, config.hidden, height, width))
        self.hidden_bias = nn.Parameter(torch.zeros(config.hidden, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs, height, width))
        self.classes = ClassBias(classes, config.hidden) if classes else None
        # The pixel before in raster order: to the left, or for the first one of a row the last one of the row above.
        self.left, self.above = Shift(right=1), Shift(down=1, right=1 - width)
        self.sum, self.total = RasterSum(width), Total()
        self.activate = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "silu": nn.SiLU}[config.activation]()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]

        Args:
            x: pixels in model space.
            labels: int64 [B], ``classes`` for no class; None if, and only if, the network was built without classes.

        Raises:
            UsageError: for labels that are missing, or given to a network that knows no classes.
        """
        check_given("labels", labels, self.classes is not None)
        # W of the pixel before: the whole line of weights moved by one pixel. The first pixel has none before it.
        enter = F.pad(self.enter.flatten(2), (1, -1)).view_as(self.enter)
        before = self.left(x) + self.above(x)
        a = before[:, :1] * enter[0]
        for channel in range(1, self.channels):
            a = a + before[:, channel : channel + 1] * enter[channel]
        a = self.sum(a) + self.hidden_bias
        if self.classes is not None:
            a = a + self.classes(labels)
        params, share, planes = [], self.outputs // self.groups, self.channels // self.groups
        for group in range(self.groups):
            h = self.activate(a)
            params += [self.total(h * self.leave[one]) for one in range(group * share, (group + 1) * share)]
            if group < self.groups - 1:
                for plane in range(group * planes, (group + 1) * planes):
                    a = a + x[:, plane : plane + 1] * self.enter[plane]
        return torch.cat(params, dim=1) + self.bias


class Total(nn.Module):
    """The sum over the features of each position, [B, features, H, W] -> [B, 1, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> [B, 1, H, W]"""
        return x.sum(1, keepdim=True)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)
