"""Nearest neighbors as an image: samples above their nearest training images, the closest pair first, and below them
the same for held-out images, which cannot be memorized.
"""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.metrics.memorization import NearestNeighbors
from pixelloom.metrics.results import Reference, TrainingNeighbors
from pixelloom.viz import canvas
from pixelloom.viz.canvas import Line
from pixelloom.viz.grid import grid, grid_layout

_LETTER, _TITLE = 13, 18  # pixels
_GAP = _TITLE // 2
_SIDE = 72  # pixels: width that an image is enlarged to


def draw(
    samples: Tensor,
    reference: Reference,
    neighbors: TrainingNeighbors,
    levels: int,
    *,
    columns: int = 10,
    rows: int = 2,
) -> Image.Image:
    """Draw pairs of an image above its nearest training image: a block of samples, and one of held-out images.

    Below each pair is its distance, the root mean square difference of values in [0, 1]. The smallest of many distances
    depends on their number, so both blocks choose among equally many images, if there are as many held-out ones.

    Args:
        samples: uint8 [N, C, H, W].
        reference: held-out and training images.
        neighbors: nearest training images of samples and of held-out images.
        levels: levels of the images.
        columns: pairs beside each other.
        rows: rows of pairs in a block.

    Raises:
        UsageError: without training images.
    """
    if reference.training is None:
        raise UsageError("neighbors: there are no training images to search")
    training = torch.as_tensor(reference.training)
    held_out = torch.as_tensor(reference.held_out)[neighbors.held_out_indices]
    n = min(len(held_out), len(samples))
    distances, indices = neighbors.held_out
    blocks = []
    for name, images, found in (
        ("samples", samples, neighbors.samples),
        ("held-out images", held_out[:n], NearestNeighbors(distances[:n], indices[:n])),
    ):
        order = found.distances.argsort(stable=True)[: rows * columns]
        title = f"{len(order)} of {len(images):,} {name}, each above its nearest training image, closest first"
        blocks.append(_block(title, images, training, found, order, levels, columns))
    return canvas.vstack(blocks)


def _block(
    title: str, images: Tensor, training: Tensor, found: NearestNeighbors, order: Tensor, levels: int, columns: int
) -> Image.Image:
    """A title, and rows of pairs with their distances."""
    columns = min(columns, len(order))
    scale = max(1, round(_SIDE / max(images.shape[2:])))
    blocks = [canvas.pad(canvas.paragraph([Line(title, _TITLE)]), _GAP, _GAP, _GAP)]
    for some in torch.split(order, columns):
        tiles = torch.cat([images[some], training[found.indices[some]]]).numpy()  # [2 columns, C, H, W], two rows
        layout = grid_layout(len(tiles), tiles.shape[1:], len(some), scale)
        captions = [f"{distance:.3f}" for distance in found.distances[some].tolist()]
        labels = canvas.column_labels(captions, layout.column_centers, layout.size[1], _LETTER)
        blocks.append(canvas.vstack([grid(tiles, levels, len(some), scale), labels]))
    return canvas.pad(canvas.vstack(blocks, _GAP), bottom=_GAP)
