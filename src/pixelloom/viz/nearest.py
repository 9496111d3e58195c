"""A sheet that shows copying: each picture above the training picture that is nearest to it, the nearest pair first,
and below, for comparison, the same of held-out pictures, which nobody can have copied.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.metrics.memorization import NearestImages
from pixelloom.metrics.results import Neighbors, Reference
from pixelloom.viz.grid import Sheet, grid, sheet

_LETTER, _TITLE = 13, 18  # pixels
_SIDE = 72  # pixels: about what a picture is wide


def draw(
    samples: Tensor,
    reference: Reference,
    near: Neighbors,
    levels: int,
    *,
    columns: int = 10,
    rows: int = 2,
) -> Image.Image:
    """The sheet: blocks of samples and of as many held-out pictures, in pairs of a picture above its neighbor.

    Under each pair stands its distance, the root mean square difference of values in [0, 1]. The least of many
    distances depends on how many there are: both blocks show the nearest of equally many pictures, as far as the
    held-out ones reach.

    Args:
        samples: uint8 [N, C, H, W].
        reference: what they were compared with, with training pictures.
        near: the neighbors of both.
        levels: of the pictures.
        columns: pairs side by side.
        rows: of pairs in a block.

    Raises:
        UsageError: without training pictures.
    """
    if reference.training is None:
        raise UsageError("neighbors: there are no training pictures to look among")
    training, held_out = torch.as_tensor(reference.training), torch.as_tensor(reference.held_out)[near.held]
    n = min(len(held_out), len(samples))
    blocks = []
    for name, images, found in (
        ("drawn by the model", samples, near.generated),
        ("held-out pictures", held_out[:n], NearestImages(near.held_out.distances[:n], near.held_out.indices[:n])),
    ):
        order = found.distances.argsort(stable=True)[: rows * columns]
        title = f"{name}, each above the nearest training picture: {len(order)} of {len(images):,}, nearest first"
        blocks.append(_block(title, images, training, found, order, levels, columns))
    width = max(block.width for block in blocks)
    whole = Image.new(blocks[0].mode, (width, sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height
    return whole


def _block(
    title: str, images: Tensor, training: Tensor, found: NearestImages, order: Tensor, levels: int, columns: int
) -> Image.Image:
    """A title, and strips of pairs with their distances."""
    columns = min(columns, len(order))
    scale = max(1, round(_SIDE / max(images.shape[2:])))
    strips = []
    for some in torch.split(order, columns):
        tiles = torch.cat([images[some], training[found.indices[some]]]).numpy()
        layout = sheet(len(tiles), tiles.shape[1:], len(some), scale)
        captions = [f"{distance:.3f}" for distance in found.distances[some].tolist()]
        strips.append(_captioned(grid(tiles, levels, len(some), scale), layout, captions))
    large, gap = ImageFont.load_default(_TITLE), _TITLE // 2
    width = max(*(strip.width for strip in strips), int(large.getlength(title)) + 2 * gap)
    whole = Image.new(strips[0].mode, (width, 2 * _TITLE + sum(strip.height + gap for strip in strips)), "white")
    ImageDraw.Draw(whole).text((gap, _TITLE), title, "black", large, anchor="lm")
    top = 2 * _TITLE
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height + gap
    return whole


def _captioned(paper: Image.Image, layout: Sheet, captions: list[str]) -> Image.Image:
    font = ImageFont.load_default(_LETTER)
    whole = Image.new(paper.mode, (paper.width, paper.height + 2 * _LETTER), "white")
    whole.paste(paper, (0, 0))
    pen = ImageDraw.Draw(whole)
    for column, caption in enumerate(captions):
        middle = layout.corner(column)[1] + layout.tile[1] / 2
        pen.text((middle, paper.height + _LETTER), caption, "black", font, anchor="mm")
    return whole
