"""``pixelloom score``: anomaly scores of images, calibrated on held-out normal images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, in_processes, loaded
from pixelloom.cli.console import Meter, say, say_json, say_table
from pixelloom.cli.options import Count, Device, Flag, OptionalCount, OptionalReal
from pixelloom.cli.score_classes import classify_images
from pixelloom.cli.training_options import NO_SCORED_DATA, ScoredDataOptions, data_settings
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from pixelloom.core.types import Display, Levels
    from pixelloom.data.image_source import ImageSource
    from pixelloom.metrics.anomaly import Detection
    from pixelloom.metrics.scores import Kind
    from pixelloom.models.family import GenerativeModel
    from pixelloom.runs.anomaly import Maps, Scorer
    from pixelloom.runs.kept_calibration import Kept
    from pixelloom.runs.score import ImageScores

_log = logging.getLogger("pixelloom")
_SHOWN = 10  # most anomalous images
_RATE = 0.01  # of false alarms


@Parameter(name="*")
@dataclass(frozen=True)
class ScoreOptions:
    """Score, calibration and output of `score`."""

    split: Literal["train", "val", "test", "all"] | None = None
    """Split to score; default: test for the training data and named data sets, else all images."""
    limit: OptionalCount = None
    """Number of images to score, evenly spaced; default: all."""
    kind: Literal["likelihood", "typicality", "complexity", "ratio", "auto"] | None = None
    """Kind of score: likelihood, typicality, complexity, ratio (with --background), or auto; default: that kept with
    the model, else auto."""
    calibrate: str | None = None
    """Held-out normal images: val or test of the training data, or the path or name of other data; default: the
    calibration kept with the model, else val."""
    normals: OptionalCount = None
    """Number of calibration images, evenly spaced; about half of them are the reference. Default: 2000."""
    false_alarms: Annotated[OptionalReal, Parameter(allow_leading_hyphen=True)] = None
    """Share of normal images that may be flagged; sets the threshold. Default: that kept with the model, else 0.01."""
    save: Flag = False
    """Keep the calibration and the threshold with the model; later commands use it."""
    background: str | None = None
    """Background model for the kind ratio."""
    against: str | None = None
    """Outliers, name or path of data: print AUROC, AUPR and FPR at 95 % TPR of each kind, with --data as normal."""
    layout: Literal["mvtec"] | None = None
    """mvtec: --data has test/good, test/DEFECT and ground_truth/DEFECT; print AUROC of images and of single pixels."""
    maps: Path | None = None
    """Folder for a map of each image, bits above the expected ones: image over which it is drawn, and NumPy array."""
    csv: Path | None = None
    """CSV file with a row per image; an interrupted command continues."""
    json: Flag = False
    """Print one JSON object; without --csv it has the row of each image."""
    classify: Flag = False
    """Instead of scores, p(class | image) of a class-conditional model by Bayes' rule, and the accuracy on labeled
    data; --csv has a row per image."""
    force: Flag = False
    """Overwrite existing files."""
    device: Device = "auto"
    """auto: cuda if available."""
    devices: Count = 1
    """Number of processes, which share the cores or have one GPU each; the scores are those of one process."""


DEFAULT = ScoreOptions()


def score(model: str, /, *, options: ScoreOptions = DEFAULT, data: ScoredDataOptions = NO_SCORED_DATA) -> None:
    """Score images for anomaly by a model with a likelihood: score, p-value and flag of each.

    A larger score is more anomalous. The p-value is the rank among held-out normal images, and at most a share
    --false-alarms of normal images is flagged.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        options: Score, calibration and output.
        data: Data to score, fitted as in training; default: the test split of the training data.
    """
    check_model(model)
    from pixelloom.metrics.anomaly import needed
    from pixelloom.runs.locate import find

    needed(_RATE if options.false_alarms is None else options.false_alarms)  # raises for a rate out of range
    _check(options)
    folder = find(model)
    if options.save:
        _check_folder(folder)
    with in_processes(loaded(str(folder), options.device), options.devices) as found:
        _score(folder, found, options, data_settings(data))


def _score(folder: Path, found: GenerativeModel, options: ScoreOptions, settings: dict[str, Any]) -> None:
    """Score or classify with a model."""
    from pixelloom.models.parallel import beside
    from pixelloom.runs.anomaly import Scorer
    from pixelloom.runs.defects import PixelAreas, of_images, open_defects
    from pixelloom.runs.evaluate import data_for
    from pixelloom.runs.score import opened, score_images

    name = settings.pop("source", None)
    if options.classify:
        with opened(found, name, options.split, settings) as source:
            classify_images(found, source, options.limit, options.csv, as_json=options.json)
        return
    background = None if options.background is None else beside(found, loaded(options.background, options.device))
    maps = options.maps is not None or options.layout is not None or (options.save and hasattr(found, "nats"))
    scorer = Scorer(found, background, maps=maps)
    with ExitStack() as stack:
        defects = (
            None
            if options.layout is None
            else stack.enter_context(open_defects(data_for(found, name, settings), found.spec))
        )
        source = (
            stack.enter_context(opened(found, name, options.split, settings)) if defects is None else defects.images
        )
        outliers = (
            None if options.against is None else stack.enter_context(opened(found, options.against, None, settings))
        )
        kept = _calibrated(scorer, folder, source.title, options, settings)
        calibration = kept.calibration

        def scored(images: ImageSource, **more: Any) -> ImageScores:
            with Meter(f"scoring {images.title}", min(len(images.names), options.limit or len(images.names))) as meter:
                return score_images(
                    scorer, calibration, images, kept.kind, kept.false_alarms, limit=options.limit,
                    on_images=lambda done, _: meter.show(done), **more,
                )  # fmt: skip

        on_maps = None if options.maps is None else _map_writer(options.maps, found.spec.display, calibration.scale)
        areas = None if defects is None else PixelAreas(defects, on_maps)
        result = scored(source, csv=options.csv, on_maps=areas or on_maps)
        detections = {} if outliers is None else result.against(scored(outliers))
        if areas is not None:
            detections = of_images(result)
        _report(source.title, result, detections, options, None if areas is None else areas.auroc(), kept.path)


def _check(options: ScoreOptions) -> None:
    """Check, before measuring, that all outputs can be written."""
    if options.kind == "ratio" and options.background is None:
        raise UsageError("--kind ratio: needs a background model, --background RUN")
    if options.classify and (options.maps or options.against or options.background or options.save):
        raise UsageError(
            "--classify: gives classes instead of scores; leave out --maps, --against, --background and --save"
        )
    if options.layout is not None and (options.against or options.classify or options.split or options.csv):
        raise UsageError(
            "--layout: scores the test images of the folder; leave out --against, --classify, --split, --csv"
        )
    resumes = options.csv is not None and options.csv.with_name(f"{options.csv.name}.part").exists()
    if options.csv is not None:
        if options.csv.suffix.lower() != ".csv":
            raise UsageError(f"--csv {options.csv}: writes a table; name a file that ends in .csv")
        outputs.check_file(options.csv, options.force)
        outputs.probe(options.csv.parent)
    if options.maps is not None:
        if options.maps.exists() and not options.maps.is_dir():
            raise UsageError(f"--maps {options.maps}: is a file; name a folder")
        outputs.check_place(options.maps)
        outputs.probe(options.maps)
        if any(options.maps.iterdir()) and not (options.force or resumes):
            raise UsageError(f"--maps {options.maps}: is not empty; name another folder, or overwrite with --force")


def _check_folder(folder: Path) -> None:
    """Check that a calibration can be kept in a model folder."""
    from pixelloom.models import pretrained

    if any(folder.samefile(pretrained.folder(name)) for name in pretrained.MODELS):
        raise UsageError(
            f"--save: {folder.name} belongs to the installed package; save a copy of the model elsewhere: "
            f'pl.load("{folder.name}").save("models/{folder.name}")'
        )
    outputs.probe(folder)


def _calibrated(scorer: Scorer, folder: Path, scored: str, options: ScoreOptions, settings: Mapping[str, Any]) -> Kept:
    """The calibration kept with the model, or a new one; its images must not be those to score."""
    from pixelloom.models.description import CALIBRATION
    from pixelloom.runs.anomaly import NORMALS, calibrate
    from pixelloom.runs.kept_calibration import Kept, keep, kept_by
    from pixelloom.runs.score import is_own, normals

    path, new = folder / CALIBRATION, options.save or options.calibrate is not None or options.normals is not None
    kept = None if new else kept_by(folder, scorer, settings)
    if kept is not None:
        _check_others(kept.calibration.title, scored)
        count = len(kept.calibration.of(kept.kind))
        _log.info("calibration: as kept in %s, by %s images of %s", path, f"{count:,}", kept.calibration.title)
        rate = kept.false_alarms if options.false_alarms is None else options.false_alarms
        return replace(kept, kind=options.kind or kept.kind, false_alarms=rate, path=path)
    if new and not options.save and path.exists():
        _log.info("calibration: a new one, as --calibrate or --normals is given; not that kept in %s", path)
    chosen, most = options.calibrate or "val", options.normals or NORMALS
    rate = _RATE if options.false_alarms is None else options.false_alarms
    with normals(scorer.model, chosen, settings) as source:
        _check_others(source.title, scored)
        total = min(most, len(source.names))
        with Meter(f"calibrating on {source.title}", total) as meter:
            found = calibrate(scorer, source, rate, most, on_images=lambda done, _: meter.show(done))
    made = Kept(found, options.kind or "auto", rate, None if is_own(chosen) else settings)
    if not options.save:
        return made
    with outputs.writing(path):
        keep(folder, scorer, made)
    _log.info("calibration: kept in %s", path)
    return replace(made, path=path)


def _check_others(calibration: str, scored: str) -> None:
    if calibration == scored:
        raise UsageError(f"calibrate: {scored} are the images to score; calibrate on others")


def _map_writer(folder: Path, levels: Display, scale: float) -> Callable[[list[str], Levels, Maps], None]:
    """A function that writes the maps of a batch: NAME.map.png and NAME.map.npy."""
    from pixelloom.viz.anomaly import overlay
    from pixelloom.viz.grid import save_png

    _log.info("maps: colors saturate at %.3g bits above (red) or below (blue) the expected ones", scale)

    def write(names: list[str], images: Levels, maps: Maps) -> None:
        for name, image, excess in zip(names, images, maps, strict=True):
            parts = [part for part in name.split("/") if part not in ("", ".", "..")]
            base = folder.joinpath(*parts)
            with outputs.writing(base):
                base.parent.mkdir(parents=True, exist_ok=True)
                outputs.write_array(base.with_name(f"{base.name}.map.npy"), excess)
                save_png(overlay(image, levels, excess, scale), base.with_name(f"{base.name}.map.png"))

    return write


def _report(
    title: str,
    result: ImageScores,
    detections: dict[Kind, Detection],
    options: ScoreOptions,
    pixel_auroc: float | None,
    kept: Path | None,
) -> None:
    """Print the result."""
    import numpy as np

    flagged, n = int(result.flags.sum()), len(result.names)
    unread = int(np.isnan(result.scores).sum())
    calibration = result.calibration
    if options.json:
        found: dict[str, object] = {
            "data": title,
            "kind": result.kind,
            "images": n,
            "unreadable": unread,
            "flagged": flagged,
            "threshold": result.threshold,
            "false_alarms": result.false_alarms,
            "calibration": {
                "data": calibration.title,
                "images": len(calibration.of(result.kind)),
                "file": None if kept is None else str(kept),
            },
            "map_scale": calibration.scale if options.maps is not None else None,
            "pixel_auroc": pixel_auroc,
            "detection": {kind: each.as_dict() for kind, each in detections.items()},
            "csv": None if options.csv is None else str(options.csv),
        }
        if options.csv is None:
            found["scores"] = [row._asdict() for row in result.rows]
        say_json(found)
        return
    say(f"{title}: {n:,} images, score {result.kind}" + (f", {unread} not readable" if unread else ""))
    say(
        f"  threshold {result.threshold:.4f}: at most {100 * result.false_alarms:g} % false alarms, by "
        f"{len(calibration.of(result.kind)):,} images of {calibration.title}"
        + ("" if kept is None else f", kept in {kept}")
    )
    say(f"  flagged   {flagged:,} ({100 * flagged / n:.1f} %)")
    if detections:
        _say_detections(detections, options.against or "defects")
    else:
        _say_most(result)
    if pixel_auroc is not None:
        say(f"  AUROC of single pixels {pixel_auroc:.4f}")
    for path in filter(None, (options.csv, options.maps)):
        say(str(path))


def _say_detections(detections: dict[Kind, Detection], outliers: str) -> None:
    first = next(iter(detections.values()))
    say(f"  against {first.outliers:,} images of {outliers}, with {first.normals:,} normal ones (95 % intervals):")
    rows = [
        (
            kind,
            *(
                f"{value:.4f} ({low:.4f} to {high:.4f})"
                for value, (low, high) in (
                    (each.auroc, each.auroc_95), (each.aupr, each.aupr_95), (each.fpr95, each.fpr95_95)
                )
            ),
        )
        for kind, each in detections.items()
    ]  # fmt: skip
    say_table(("score", "AUROC", "AUPR", "FPR at 95 % TPR"), rows)


def _say_most(result: ImageScores) -> None:
    """The most anomalous images."""
    rows = sorted((row for row in result.rows if row.score is not None), key=lambda row: -(row.score or 0))[:_SHOWN]
    say_table(
        ("most anomalous", "score", "p-value", "bits/dim", "flag"),
        [
            (row.image, f"{row.score:.4f}", f"{row.p_value:.4f}", f"{row.bits:.4f}", "*" if row.flag else "")
            for row in rows
        ],
    )
