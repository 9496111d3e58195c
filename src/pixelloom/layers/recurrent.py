"""Recurrences over the image: LSTMs along rows and diagonals, and running sums.

A recurrence computes the state at a position from the input there and the states at the offsets ``carried``; beyond the
edge states are zero. One method, ``step``, computes it: ``forward`` calls it for all images and all positions that do
not depend on each other (a row, a diagonal), the fast sampler for the positions of its wavefront
(:mod:`pixelloom.layers.reads`).

An LSTM here is the state-to-state part of van den Oord et al. 2016, "Pixel Recurrent Neural Networks", eq. 3. Its input
is the input-to-state part, four gates of h features each, computed for the whole image before::

    o, f, i, g = input + K states        sigmoid for o, f, i, tanh for g
    c = f * c_before + i * g
    h = o * tanh(c)

The state is [h, c], 2h features. All sums are in the precision of the weights, under autocast too, because rounding
errors of a cell accumulate over all rows or diagonals.

    Row LSTM         state at ? is computed from     Diagonal LSTM       and mirrored

                     h h+c h                             h                   h
                       ?                             h+c ?                   ? h+c
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.layers.reads import Closure, Position, Read


class RowLSTM(nn.Module):
    """An LSTM from row to row (section 3.1).

    Its receptive field is a triangle above the position, ``kernel // 2`` columns wider to each side with each row.

    Args:
        features: h.
        kernel: number of states of the row above that a state is computed from, odd.

    Raises:
        ValueError: for an even kernel, which has no center for the cell.
    """

    def __init__(self, features: int, kernel: int = 3) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"the states above need a middle, so their number must be odd and positive, not {kernel}")
        self.radius = kernel // 2
        self.carried: tuple[Position, ...] = tuple((-1, dx) for dx in range(-self.radius, self.radius + 1))
        self.weight = _square(kernel, features)

    def step(self, x: Tensor, *states: Tensor) -> Tensor:
        """Gates [M, 4h], one state [M, 2h] per offset of ``carried`` -> state [M, 2h]"""
        return _cell(x, states, states[self.radius], self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4h, H, W] -> [B, 2h, H, W]"""
        images, _, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            rows = _positions_first(x, self.weight)  # [H*W, B, 4h]
            margin = self.radius * images
            state = rows.new_zeros(width * images, self.weight.shape[1] // 2)
            states = []
            for row in torch.split(rows, width):
                # [W * B, 2h], column by column: a shift by one column is one by B rows.
                above = F.pad(state, (0, 0, margin, margin))
                shifted = (above[dx * images : (dx + width) * images] for dx in range(len(self.carried)))
                state = self.step(row.flatten(0, 1), *shifted)  # [W, B, 4h] -> [W * B, 4h]
                states.append(state)
            # [H * W * B, 2h] -> [H, W, B, 2h] -> [B, 2h, H, W]
            return torch.cat(states).view(height, width, images, state.shape[1]).permute(2, 3, 0, 1)

    def reads(self) -> tuple[Read, ...]:
        """The input here, and the inputs of the states above."""
        return (Read(Closure(self.carried)),)


class DiagonalLSTM(nn.Module):
    """An LSTM from diagonal to diagonal, starting at the upper left corner (section 3.2).

    The positions (y, x) of diagonal y + x are a column of the paper's skewed map, and its 2x1 kernel reads the states
    above and to the left. The receptive field is all positions above and to the left. Only positions inside the image
    are computed, which are half of a skewed map.

    Args:
        features: h.
        mirrored: start at the upper right corner and read the state to the right instead of the left. A state then
            depends on the row to the right, which is later in raster order: shift the output down by one row.
    """

    def __init__(self, features: int, *, mirrored: bool = False) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.carried: tuple[Position, ...] = ((0, 1 if mirrored else -1), (-1, 0))
        self.weight = _square(2, features)

    def step(self, x: Tensor, beside: Tensor, above: Tensor) -> Tensor:
        """Gates [M, 4h], two states [M, 2h] -> state [M, 2h]"""
        return _cell(x, (beside, above), beside, self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4h, H, W] -> [B, 2h, H, W]"""
        images, _, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            order = self._order(height, width, x.device)
            rows = [(max(0, d - width + 1), min(d, height - 1)) for d in range(height + width - 1)]
            state = self.weight.new_zeros(0, self.weight.shape[1] // 2)
            states, last = [], -1
            positions = _positions_first(x, self.weight)[order]
            diagonals = torch.split(positions, [end - first + 1 for first, end in rows])
            for diagonal, (first, end) in zip(diagonals, rows, strict=True):
                # The states of the previous diagonal in rows first - 1 to end, zero outside the image: [rows * B, 2h].
                before = F.pad(state, (0, 0, images * (first == 0), images * (end > last)))
                # [rows, B, 4h] -> [rows * B, 4h]
                state = self.step(diagonal.flatten(0, 1), before[images:], before[: len(before) - images])
                states.append(state)
                last = end
            # [H*W * B, 2h] by diagonals -> [H*W, B, 2h] in raster order -> [B, 2h, H, W]
            found = torch.cat(states).view(height * width, images, state.shape[1])[order.argsort()]
            return found.view(height, width, images, state.shape[1]).permute(2, 3, 0, 1)

    def _order(self, height: int, width: int, device: torch.device) -> Tensor:
        """Raster indices of all positions, by diagonals, each from the top: int64 [H*W]."""
        y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        diagonal = y + (x.flip(0) if self.mirrored else x)
        return (diagonal * height + y).flatten().argsort()  # [H, W] -> [H*W]

    def reads(self) -> tuple[Read, ...]:
        """The input here, and the inputs of the states beside and above."""
        return (Read(Closure(self.carried)),)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"{self.weight.shape[1] // 4}, mirrored={self.mirrored}"


class RasterSum(nn.Module):
    """out[p] = sum of x[q] over positions q <= p in raster order.

    Args:
        width: of the images. The position before the first one of a row is the last one of the row above, width - 1
            columns to the right; for all other columns that offset is beyond the edge.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.carried: tuple[Position, ...] = ((0, -1), (-1, width - 1))

    def step(self, x: Tensor, beside: Tensor, above: Tensor) -> Tensor:
        """Three times [M, features] -> [M, features]; one of the two states is zero."""
        return x + beside + above

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        return x.flatten(2).cumsum(-1).view(x.shape)  # [B, features, H, W] -> [B, features, H*W] and back

    def reads(self) -> tuple[Read, ...]:
        """All positions up to this one."""
        return (Read(Closure(self.carried)),)


def _square(states: int, features: int) -> nn.Parameter:
    """State-to-state weights [states * h, 4h], scaled to preserve the variance of h (LeCun et al. 1998)."""
    return nn.Parameter(torch.randn(states * features, 4 * features) / math.sqrt(states * features))


def _cell(x: Tensor, states: Sequence[Tensor], carried: Tensor, weight: Tensor) -> Tensor:
    """Eq. 3: gates [M, 4h], n states [M, 2h], the one with c_before [M, 2h], weight [n * h, 4h] -> state [M, 2h]"""
    h = weight.shape[1] // 4
    # o, f, i, g = input + K states
    gates = torch.addmm(x, torch.cat([state[:, :h] for state in states], dim=1), weight)
    o, f, i = gates[:, : 3 * h].sigmoid().chunk(3, dim=1)
    # c = f * c_before + i * g, h = o * tanh(c)
    c = torch.addcmul(f * carried[:, h:], i, gates[:, 3 * h :].tanh())
    return torch.cat((o * c.tanh(), c), dim=1)


def _positions_first(x: Tensor, weight: Tensor) -> Tensor:
    """[B, features, H, W] -> [H*W, B, features] in the precision of the weight."""
    return x.to(weight.dtype).permute(2, 3, 0, 1).flatten(0, 1).contiguous()
