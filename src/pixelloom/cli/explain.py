"""``pixelloom explain``: one prediction of a pixel model as an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, image_of, loaded, position_of
from pixelloom.cli.conditioning import class_of
from pixelloom.cli.console import say
from pixelloom.cli.options import ClassName, Device, Flag, OptionalIndex
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.models.family import GenerativeModel


def explain(
    model: str,
    image: Path | None = None,
    /,
    *,
    position: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    seed: OptionalIndex = None,
    class_: ClassName = None,
    out: Path | None = None,
    device: Device = "auto",
    force: Flag = False,
) -> None:
    """Show how a pixel model predicts one pixel: mask, receptive field, distribution, and the bits of every pixel.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        image: An image file; by default the first test image of the data that the model was trained on.
        position: ROW,COLUMN of the predicted pixel, counted from 0; by default the center.
        seed: Explain a sample of the model with this seed instead of an image.
        class_: Class of the image, by name or number, for a model that was trained with --classes.
        out: A PNG of the explanation; by default explain.png, or explain-2.png and so on if it exists.
        device: auto is CUDA where there is one.
        force: Replace the PNG if it exists.
    """
    check_model(model)
    from pixelloom import api
    from pixelloom.models.registry import require
    from pixelloom.viz.grid import save_png

    if seed is not None and image is not None:
        raise UsageError("IMAGE, --seed: give an image file or the seed of a sample, not both")
    out = outputs.free(Path("explain.png"), force=force) if out is None else out
    outputs.check_image(out, force)
    found = loaded(model, device)
    require(found, "receptive_field", "pixelloom explain")
    where = position_of(position, found.spec)
    levels, label = _image(found, image, seed, class_of(class_, found))
    outputs.probe(out.parent)
    drawn = api.explain(found, levels, where, label=label)
    with outputs.writing(out):
        save_png(drawn, out)
    say(str(out))


def _image(model: GenerativeModel, path: Path | None, seed: int | None, label: int | None) -> tuple[Tensor, int | None]:
    """The image to explain, uint8 [C, H, W], and its class."""
    from pixelloom.runs.evaluate import data_for, examples

    if path is not None:
        return image_of("IMAGE", path, model.spec, fitted=True)[0], label
    batch = None if seed is not None and model.condition is None else examples(model, data_for(model), "test", 1)
    if seed is not None:
        condition = {} if batch is None or model.condition is None else {"condition": model.condition.of(batch.images)}
        return model.sample(1, seed=seed, labels=label, **condition)[0], label
    assert batch is not None
    if label is None and batch.labels is not None and 0 <= int(batch.labels[0]) < model.description.classes:
        label = int(batch.labels[0])
    return batch.images[0], label
