"""The model for some images: the packaged one that takes most of them, in their size."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from pixelloom.codec import lookup
from pixelloom.codec.image_files import levels_of
from pixelloom.codec.protocols import BlockCodec, Resizable
from pixelloom.core.errors import DataError, ModelError, UsageError
from pixelloom.data.io.decode import size_of


def choose(files: Sequence[bytes]) -> tuple[str, BlockCodec]:
    """Name and model that takes most of the files, the first of equal ones.

    Args:
        files: contents of image files.

    Raises:
        ModelError: if none takes any.
    """
    found = [(name, fitted(lookup.load(path), files)) for name, path in lookup.packaged().items()]
    counts = [sum(not isinstance(levels_of(data, codec.spec), str) for data in files) for _, codec in found]
    if not any(counts):
        raise ModelError(
            f"--model: no packaged model takes these images ({lookup.names()}); train one, export it with "
            "`pixelloom export MODEL --codec FILE`, and give it with --model FILE"
        )
    return found[counts.index(max(counts))]


def fitted(codec: BlockCodec, files: Sequence[bytes]) -> BlockCodec:
    """The model for the most common size of image files, if it takes images of that size; else as it is."""
    counts: Counter[tuple[int, int]] = Counter()
    for data in files:
        with contextlib.suppress(DataError):  # of a damaged file, which is stored as it is
            counts[size_of(data)] += 1
    if counts and isinstance(codec, Resizable):
        with contextlib.suppress(ModelError, UsageError):  # a model for one size
            return codec.resized(*counts.most_common(1)[0][0])
    return codec
