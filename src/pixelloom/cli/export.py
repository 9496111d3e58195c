"""``pixelloom export``: a trained model as a file for the codec, or as an ONNX file."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from pixelloom.cli import outputs
from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import ClassName, Count, Flag, whole_number
from pixelloom.core.errors import UsageError


def export(
    model: str,
    /,
    *,
    codec: Path | None = None,
    onnx: Path | None = None,
    data: str | None = None,
    class_: ClassName = None,
    calibration: Count = 128,
    validation: Annotated[int, Parameter(validator=Number(gte=0), converter=whole_number)] = 64,
    force: Flag = False,
    json: Flag = False,
) -> None:
    """Lower a model to integers, for `pixelloom compress`: the same probabilities on every machine. Or write ONNX.

    For the codec, the model must be a pixel model without conditioning image and further pixel orders. The file holds
    integers only. Keep it: compressed files can be read with this very export alone. An export of a class-conditional
    model is for one class, or for the null class.

    With --onnx, one pass of a pixel model (levels to parameters of the head), or the generator of a GAN (latent
    vectors to images), is written for ONNX Runtime and other runtimes.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        codec: File to write (.safetensors), or a folder for it; default: the model's folder.
        onnx: ONNX file to write (.onnx), instead of an export for the codec.
        data: Images for calibration and measurement; default: the training data.
        class_: Class of the images that the export is for; default: the null class.
        calibration: Number of training images that set the ranges of the integers, evenly spaced.
        validation: Number of validation images on which bits/dim are compared; 0 for none.
        force: Overwrite an existing file.
        json: Print one JSON object.
    """
    from pixelloom.codec.lookup import EXPORT, SUFFIX
    from pixelloom.models.pretrained import MODELS
    from pixelloom.models.registry import load_model, require
    from pixelloom.runs.export import export as exported
    from pixelloom.runs.locate import find

    folder = find(model)
    if onnx is not None:
        if codec is not None:
            raise UsageError("--onnx, --codec: write one file at a time")
        if data is not None:
            raise UsageError("--data: is for --codec; --onnx takes no images")
        if class_ is not None:
            raise UsageError("--class: is for --codec; the ONNX file takes labels as an input")
        _write_onnx(model, folder, onnx, force=force, json=json)
        return
    if codec is None and model in MODELS:
        raise UsageError("--codec: name the file or folder to write, as in --codec exports")
    path = folder if codec is None else codec
    if path.suffix != SUFFIX:
        if path.suffix and not path.is_dir():
            raise UsageError(f"--codec: {path} is no folder, and the name of an export ends in {SUFFIX}")
        path = path / EXPORT
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; choose another --codec, or add --force")
    found = exported(
        require(load_model(folder), "likelihood", "export"), data, calibration=calibration, validation=validation,
        label=class_,
    )  # fmt: skip
    outputs.probe(path.parent)
    found.codec.save(path)
    size, parameters = path.stat().st_size, found.codec.card
    if json:
        measured = {"model": found.model, "lowered": found.lowered, "loss_percent": found.loss, "n": found.n}
        say_json({
            "file": str(path), "bytes": size, "identity": found.codec.identity.hex(), "profile": found.codec.profile,
            "bits_per_dim": measured if found.n else None, "card": parameters,
        })  # fmt: skip
        return
    say(f"file        {path}, {size:,} bytes")
    say(f"identity    {found.codec.identity.hex()}")
    if found.n:
        loss = f"{found.model:.4f} before, {found.lowered:.4f} after lowering ({found.loss:+.3f} %)"
        say(f"bits/dim    {loss}; {found.n} validation images")


def _write_onnx(model: str, folder: Path, path: Path, *, force: bool, json: bool) -> None:
    from pixelloom.engine.safetensors_io import digest_of
    from pixelloom.models.description import WEIGHTS
    from pixelloom.models.registry import load_model
    from pixelloom.onnx.export import export_onnx
    from pixelloom.runs.folder import BEST

    if path.suffix != ".onnx":
        raise UsageError(f"--onnx {path}: the name of an ONNX file ends in .onnx")
    outputs.check_file(path, force)
    outputs.probe(path.parent)
    name = folder.parent.name if folder.name == BEST else folder.name
    metadata = export_onnx(load_model(folder), path, name, digest_of(folder / WEIGHTS))
    size = path.stat().st_size
    if json:
        say_json({"file": str(path), "bytes": size, "metadata": metadata})
        return
    say(f"file        {path}, {size:,} bytes")
    say(f"inputs      {', '.join(loads(metadata['inputs']))}")
    say("checked     ONNX Runtime computes what torch computes, within 1e-4 of the largest output")
