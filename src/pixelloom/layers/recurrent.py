"""Recurrences over the image: LSTMs along rows and diagonals, and running sums.

A recurrence computes a state at each position from the input there and from the states at a few positions before it,
``carried``; beyond the edge the state is zero. The same ``step`` serves both ways of running it: ``forward`` takes all
images and all positions that do not need each other at once (a row, a diagonal), the fast sampler takes those of its
wavefront (:mod:`pixelloom.layers.reads`).

An LSTM here is the state-to-state half of van den Oord et al. 2016, "Pixel Recurrent Neural Networks", equation 3. Its
input holds the input-to-state half, four gates of h features each, which is computed for the whole image before::

    o, f, i, g = input + K states        sigmoid for o, f, i, tanh for g
    c = f * c_before + i * g
    h = o * tanh(c)

The state is [h, c] side by side, 2h features. All sums are kept in the precision of the weights, under autocast too:
a cell remembers over as many steps as the image has rows or diagonals, and so would its rounding errors.

    Row LSTM         state at ? is carried from      Diagonal LSTM       and mirrored

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
    """One row after the other from the top, [B, 4h, H, W] -> [B, 2h, H, W] (section 3.1).

    What it sees is a triangle above the position, ``kernel // 2`` columns wider to each side with each row.

    Args:
        features: h.
        kernel: hidden states of the row above that each state is computed from, odd.

    Raises:
        ValueError: for an even kernel, which has no middle for the cell to be carried along.
    """

    def __init__(self, features: int, kernel: int = 3) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"the states above need a middle, so their number must be odd and positive, not {kernel}")
        self.radius = kernel // 2
        self.carried: tuple[Position, ...] = tuple((-1, dx) for dx in range(-self.radius, self.radius + 1))
        self.weight = _square(kernel, features)

    def step(self, x: Tensor, *states: Tensor) -> Tensor:
        """([M, 4h], one [M, 2h] for each of ``carried``) -> [M, 2h]"""
        return _cell(x, states, states[self.radius], self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4h, H, W] -> [B, 2h, H, W]"""
        images, _, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            rows = _positions_first(x, self.weight)  # [H * W, B, 4h]
            margin = self.radius * images
            state = rows.new_zeros(width * images, self.weight.shape[1] // 2)
            states = []
            for row in torch.split(rows, width):
                above = F.pad(state, (0, 0, margin, margin))  # one column further is ``images`` rows further
                shifted = (above[dx * images : (dx + width) * images] for dx in range(len(self.carried)))
                state = self.step(row.flatten(0, 1), *shifted)
                states.append(state)
            return torch.cat(states).view(height, width, images, state.shape[1]).permute(2, 3, 0, 1)

    def reads(self) -> tuple[Read, ...]:
        """All that the states above know, and the input here."""
        return (Read(Closure(self.carried)),)


class DiagonalLSTM(nn.Module):
    """One diagonal after the other from the upper left corner, [B, 4h, H, W] -> [B, 2h, H, W] (section 3.2).

    The positions (y, x) of diagonal y + x are a column of the paper's skewed map, and its 2x1 kernel reads the states
    above and to the left. Seen from a position that is all above and to the left of it, without a blind spot. Here only
    the positions inside the image are computed, which are half of a skewed map.

    Args:
        features: h.
        mirrored: begin in the upper right corner and look to the right instead. What it knows at a position, all above
            and the row to the right, comes before the position below only: its output has to be shifted down.
    """

    def __init__(self, features: int, *, mirrored: bool = False) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.carried: tuple[Position, ...] = ((0, 1 if mirrored else -1), (-1, 0))
        self.weight = _square(2, features)

    def step(self, x: Tensor, beside: Tensor, above: Tensor) -> Tensor:
        """([M, 4h], [M, 2h], [M, 2h]) -> [M, 2h]"""
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
                # The states of the diagonal before in rows first - 1 .. end, zero where that is outside the image.
                before = F.pad(state, (0, 0, images * (first == 0), images * (end > last)))
                state = self.step(diagonal.flatten(0, 1), before[images:], before[: len(before) - images])
                states.append(state)
                last = end
            found = torch.cat(states).view(height * width, images, state.shape[1])[order.argsort()]
            return found.view(height, width, images, state.shape[1]).permute(2, 3, 0, 1)

    def _order(self, height: int, width: int, device: torch.device) -> Tensor:
        """Numbers of all positions, diagonal by diagonal, each from the top: int64 [H * W]."""
        y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        diagonal = y + (x.flip(0) if self.mirrored else x)
        return (diagonal * height + y).flatten().argsort()

    def reads(self) -> tuple[Read, ...]:
        """All that the states beside and above know, and the input here."""
        return (Read(Closure(self.carried)),)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"{self.weight.shape[1] // 4}, mirrored={self.mirrored}"


class RasterSum(nn.Module):
    """out[p] = sum of x[q] over all positions q up to p in raster order, p included: [B, features, H, W] -> same.

    Args:
        width: of the images. The position before the first one of a row is the last one of the row above, width - 1
            columns to the right; from every other column that leads beyond the edge.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.carried: tuple[Position, ...] = ((0, -1), (-1, width - 1))

    def step(self, x: Tensor, beside: Tensor, above: Tensor) -> Tensor:
        """Three times [M, features] -> [M, features]; of the two states one is zero."""
        return x + beside + above

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        return x.flatten(2).cumsum(-1).view(x.shape)

    def reads(self) -> tuple[Read, ...]:
        """All positions up to here, and this one."""
        return (Read(Closure(self.carried)),)


def _square(states: int, features: int) -> nn.Parameter:
    """State-to-state weights [states * h, 4h], of a size that keeps the variance of h (LeCun et al. 1998)."""
    return nn.Parameter(torch.randn(states * features, 4 * features) / math.sqrt(states * features))


def _cell(x: Tensor, states: Sequence[Tensor], carried: Tensor, weight: Tensor) -> Tensor:
    """Equation 3: gates [M, 4h], states [M, 2h], the one whose cell goes on, weight [n * h, 4h] -> state [M, 2h]."""
    h = weight.shape[1] // 4
    gates = torch.addmm(x, torch.cat([state[:, :h] for state in states], dim=1), weight)
    o, f, i = gates[:, : 3 * h].sigmoid().chunk(3, dim=1)
    c = torch.addcmul(f * carried[:, h:], i, gates[:, 3 * h :].tanh())
    return torch.cat((o * c.tanh(), c), dim=1)


def _positions_first(x: Tensor, weight: Tensor) -> Tensor:
    """[B, features, H, W] -> [H * W, B, features] in the precision of the weight."""
    return x.to(weight.dtype).permute(2, 3, 0, 1).flatten(0, 1).contiguous()
