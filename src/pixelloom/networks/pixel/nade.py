"""NADE: the image as a sequence of values, and a hidden layer whose pre-activation grows with each value.

    a_1     = c
    h_i     = sigmoid(a_i)
    p(x_i | x_<i) from V_i h_i + b_i
    a_{i+1} = a_i + W_i x_i

The values are in raster order and, if channels are ordered, channel by channel within a pixel; otherwise all channels
of a pixel are predicted from the same h. The a_i are a running sum, so training takes one pass, and sampling one
addition per value. The paper has binary x and one logit; here V_i h_i + b_i are the parameters of any head, and x_i is
the value in model space.

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
    """Configuration of a NADE; the default is the paper's for binarized MNIST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(500, ge=1, le=16_384, description="features of the hidden layer")
    activation: Literal["sigmoid", "relu", "silu"] = Field("sigmoid", description="of the hidden layer")


class NADE(nn.Module):
    """One hidden layer over a running sum; see :class:`pixelloom.networks.protocols.PixelNetwork`.

    Each value has its own weights, so the image size is fixed. A class vector is added to a_1.

    Raises:
        ValueError: if the groups do not divide the outputs.
    """

    def __init__(self, config: NADEConfig, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 0) -> None:
        super().__init__()
        if outputs % groups:
            raise ValueError(f"{outputs} outputs cannot be shared among {groups} image channels")
        channels, height, width = spec.shape
        self.channels, self.outputs, self.groups = channels, outputs, groups
        # W and V, a vector per value: [channels or outputs, hidden, H, W].
        self.enter = nn.Parameter(torch.randn(channels, config.hidden, height, width) / math.sqrt(spec.dims))
        self.leave = nn.Parameter(torch.zeros(outputs, config.hidden, height, width))
        self.hidden_bias = nn.Parameter(torch.zeros(config.hidden, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs, height, width))
        self.classes = ClassBias(classes, config.hidden) if classes else None
        # The previous pixel in raster order: on the left, or for the first one of a row the last one of the row above.
        self.left, self.above = Shift(right=1), Shift(down=1, right=1 - width)
        self.sum, self.total = RasterSum(width), Total()
        self.activate = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "silu": nn.SiLU}[config.activation]()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, outputs, H, W]"""
        check_given("labels", labels, self.classes is not None)
        # W of the previous pixel, zero for the first: shift by one along [channels, hidden, H*W], then back to H, W.
        enter = F.pad(self.enter.flatten(2), (1, -1)).view_as(self.enter)
        before = self.left(x) + self.above(x)
        # a_{i+1} = a_i + W_i x_i for all pixels at once: the products [B, hidden, H, W], then their running sum.
        a = before[:, :1] * enter[0]
        for channel in range(1, self.channels):
            a = a + before[:, channel : channel + 1] * enter[channel]
        a = self.sum(a) + self.hidden_bias
        if self.classes is not None:
            a = a + self.classes(labels)
        # h_i = sigmoid(a_i) and V_i h_i + b_i, group by group; between groups a grows by the channels of the group.
        params, share, planes = [], self.outputs // self.groups, self.channels // self.groups
        for group in range(self.groups):
            h = self.activate(a)
            params += [self.total(h * self.leave[one]) for one in range(group * share, (group + 1) * share)]
            if group < self.groups - 1:
                for plane in range(group * planes, (group + 1) * planes):
                    a = a + x[:, plane : plane + 1] * self.enter[plane]
        return torch.cat(params, dim=1) + self.bias


class Total(nn.Module):
    """The sum over the features of each position."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> [B, 1, H, W]"""
        return x.sum(1, keepdim=True)

    def reads(self) -> tuple[Read, ...]:
        """All features of the same position."""
        return (Read(HERE),)
