"""The model for some images: the packaged one that takes most of them."""

from __future__ import annotations

from collections.abc import Sequence

from pixelloom.codec import lookup
from pixelloom.codec.image_files import levels_of
from pixelloom.codec.protocols import BlockCodec, of_any_size
from pixelloom.core.errors import ModelError


def choose(files: Sequence[bytes]) -> tuple[str, BlockCodec]:
    """Name and model that takes most of the files, the first of equal ones.

    Args:
        files: contents of image files.

    Raises:
        ModelError: if none takes any.
    """
    found = [(name, lookup.load(path)) for name, path in lookup.packaged().items()]
    counts = [
        sum(not isinstance(levels_of(data, codec.spec, any_size=of_any_size(codec) is not None), str) for data in files)
        for _, codec in found
    ]
    if not any(counts):
        raise ModelError(
            f"--model: no packaged model takes these images ({lookup.names()}); train one, export it with "
            "`pixelloom export MODEL --codec FILE`, and give it with --model FILE"
        )
    return found[counts.index(max(counts))]
