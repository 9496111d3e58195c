"""Sides and widths of the stages between 4x4 and the image, for generators and discriminators."""

from __future__ import annotations

from pixelloom.core.types import ImageSpec

SIZES = (16, 32, 64, 128)


def sides(spec: ImageSpec) -> tuple[int, ...]:
    """4, 8, ..., up to the side of the images.

    Raises:
        ValueError: for images that are not squares of 16, 32, 64 or 128 pixels a side.
    """
    if spec.height != spec.width or spec.height not in SIZES:
        allowed, largest = ", ".join(map(str, SIZES)), max(spec.height, spec.width)
        near = min(SIZES, key=lambda side: abs(side - largest))
        raise ValueError(
            f"this network takes squares with a side of {allowed}, not images of {spec}; resize them with --size {near}"
        )
    return tuple(side for side in (4, 8, *SIZES) if side <= spec.height)


def widths(stages: tuple[int, ...], width: int, most: int) -> tuple[int, ...]:
    """Features of each stage: ``width`` at the largest, doubled each time the side is halved, at most ``most``."""
    return tuple(min(most, width * stages[-1] // side) for side in stages)
