"""Masks of images: which pixels are hidden, to be completed. True is hidden, white in a file.

Named regions (:func:`region`) and boxes (:func:`box`) serve the command line. Random masks train and validate a model
with ``condition: mask``; each image has one of

    everything                  1/6     the ordinary model
    a half plane                1/6     above, below, left or right of a cut
    a box                       1/6
    everything but a box        1/6
    strokes, or all but them    1/6     lines between four random points
    random pixels               1/6     a share from U(0, 1)

so that nothing known, everything known and any share between occur. Random masks are functions of uniform numbers,
so training draws these from the generator of its step and validation from a fixed stream.

Source of the setting: Dupont and Suresha 2019, "Probabilistic Semantic Inpainting with Pixel Constrained CNNs", which
hides random boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pixelloom.core import rng
from pixelloom.core.errors import UsageError, did_you_mean

REGIONS = ("bottom", "top", "left", "right", "center")
NUMBERS = 12  # uniform numbers of a random mask, besides one for each pixel
_KINDS, _POINTS = 6, 4


def region(name: str, height: int, width: int, seed: int = 0) -> Tensor:
    """The mask of a named region, bool [H, W].

    Args:
        name: half of the image (``bottom``, ``top``, ``left``, ``right``), ``center`` (half of each side), or a share
            of random pixels, ``75%``.
        height: H.
        width: W.
        seed: of the random pixels.

    Raises:
        UsageError: for another name, or a share outside 0 to 100 %.
    """
    top, left = height // 2, width // 2
    boxes = {
        "bottom": (top, 0, height - top, width),
        "top": (0, 0, top, width),
        "left": (0, 0, height, left),
        "right": (0, left, height, width - left),
        "center": ((height - height // 2) // 2, (width - width // 2) // 2, height // 2, width // 2),
    }
    if name in boxes:
        return box(boxes[name], height, width)
    try:
        share = float(name.removesuffix("%")) / 100 if name.endswith("%") else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        near = did_you_mean(name, REGIONS)
        raise UsageError(f"hide: {', '.join(REGIONS)}, or a share of random pixels such as 75%, not {name!r}.{near}")
    order = torch.from_numpy(rng.permutation(height * width, seed, rng.Stream.HIDDEN_PIXELS))
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[order[: round(share * height * width)]] = True
    return mask.view(height, width)  # [H * W] -> [H, W]


def box(corner_and_size: tuple[int, int, int, int], height: int, width: int) -> Tensor:
    """The mask of a box (row, column, height, width), bool [H, W].

    Raises:
        UsageError: for a box that does not lie within the image.
    """
    row, column, high, wide = corner_and_size
    if min(row, column, high, wide) < 0 or row + high > height or column + wide > width:
        raise UsageError(
            f"box: row {row}, column {column}, {high}x{wide} pixels do not lie within an image of {height}x{width}"
        )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[row : row + high, column : column + wide] = True
    return mask


def strokes(points: Tensor, radius: Tensor, height: int, width: int) -> Tensor:
    """Pixels within a distance of a line through points, bool [n, H, W].

    Args:
        points: (row, column) of each vertex, as a fraction of the sides, [n, vertices, 2].
        radius: in pixels, [n].
        height: H.
        width: W.
    """
    device = points.device
    sides = torch.tensor([height, width], dtype=points.dtype, device=device)
    start, end = (points[:, part, None, None] * sides for part in (slice(None, -1), slice(1, None)))
    rows, columns = torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5
    centers = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).to(points.dtype)  # [H, W, 2]
    # The nearest point of a segment is start + t (end - start), 0 <= t <= 1; all are [n, segments, H, W, 2].
    along, toward = end - start, centers - start
    t = ((toward * along).sum(-1) / (along * along).sum(-1).clamp(min=1e-6)).clamp(0, 1)
    distance = (toward - t[..., None] * along).norm(dim=-1)  # [n, segments, H, W]
    found: Tensor = distance.amin(1) <= radius[:, None, None]
    return found


def random_masks(numbers: Tensor, field: Tensor) -> Tensor:
    """Random masks, bool [n, 1, H, W], as functions of uniform numbers.

    Args:
        numbers: in [0, 1), [n, NUMBERS].
        field: in [0, 1), [n, H, W], for random pixels.
    """
    n, height, width = field.shape
    kind = (numbers[:, 0] * _KINDS).long()
    a, b, c, d, e = numbers[:, 1:6, None, None].unbind(1)  # each [n, 1, 1]
    row = (torch.arange(height, device=field.device)[:, None] + 0.5) / height  # [H, 1]
    column = (torch.arange(width, device=field.device) + 0.5) / width  # [W]
    across, forward = a < 0.5, b < 0.5
    half = torch.where(across, row, column) < c
    inside = (
        (row >= torch.minimum(a, b)) & (row < torch.maximum(a, b))
        & (column >= torch.minimum(c, d)) & (column < torch.maximum(c, d))
    )  # fmt: skip
    # Four vertices from the last eight numbers; the radius from 1 pixel to an eighth of the smaller side.
    points = numbers[:, NUMBERS - 2 * _POINTS :].reshape(n, _POINTS, 2)
    radius = 1 + numbers[:, 1] * (min(height, width) / 8 - 1)
    lines = strokes(points, radius.clamp(min=1), height, width)
    found = torch.stack(
        [
            torch.ones_like(inside),
            half == forward,
            inside,
            ~inside,
            lines == (e < 0.5),
            field < a,
        ]
    )  # [kinds, n, H, W]
    return found[kind, torch.arange(n, device=field.device)][:, None]


def fixed_masks(n: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random masks of images 0 .. n - 1 that never change, bool [n, 1, H, W]; for validation."""
    drawn = rng.uniform_per_image((NUMBERS + height * width,), seed, 0, n, rng.Stream.HIDDEN)
    u = torch.from_numpy(drawn).reshape(n, -1)
    return random_masks(u[:, :NUMBERS], u[:, NUMBERS:].view(n, height, width))  # [n, H * W] -> [n, H, W]
