"""The checks of scores can fail: a line of the source is rewritten, and the check turns red."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import test_pixel_bits
import test_score_save
from commands import caller
from pixelloom.cli import score as command
from pixelloom.models import scoring
from pixelloom.runs import kept_calibration
from score_toys import DATA, INK, SPEC, folder
from small_models import flat, save_run
from test_rewritten import Edit


def classes_are_a_mixture() -> None:
    test_pixel_bits.test_pixels_sum_to_the_image_and_are_conditionals_of_the_mixture("classes")


def orders_are_a_mixture() -> None:
    test_pixel_bits.test_pixels_sum_to_the_image_and_are_conditionals_of_the_mixture("orders of MADE")


def runs() -> test_score_save.Command:
    """A command on a run and a folder of images, both new."""
    save_run(flat(SPEC, DATA.model_dump(mode="json"), ink=INK), Path("runs/flat"))
    folder("images", 12)
    return _COMMANDS[-1]


def a_kept_calibration_is_used() -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_score_save.check_the_same(patch, runs())


def other_weights_are_refused() -> None:
    test_score_save.check_other_weights_are_refused(runs())


def other_settings_are_refused() -> None:
    test_score_save.check_settings_of_the_images(runs())


_COMMANDS: list[test_score_save.Command] = []

MUTATIONS: dict[str, tuple[Edit, Callable[[], None]]] = {
    "pixels of a mixture take the mean over classes": (
        Edit(scoring, "of_pixels", "torch.logaddexp(joint, log_p)", "joint + log_p"),
        classes_are_a_mixture,
    ),
    "the number of classes is forgotten": (
        Edit(scoring, "of_pixels", "math.log(len(labels))", "0.0"),
        classes_are_a_mixture,
    ),
    "all orders count alike in a map": (
        Edit(scoring, "of_pixels", "log_p.softmax(1)", "torch.full_like(log_p, 1 / count)"),
        orders_are_a_mixture,
    ),
    "the divergence of the orders is forgotten": (
        Edit(scoring, "of_pixels", "divergence[:, None] / pixels", "0 * divergence[:, None]"),
        orders_are_a_mixture,
    ),
    "pixels stay in the sequence of their order": (
        Edit(scoring, "of_pixels", ".scatter(2, places.expand(len(nats), -1, -1), nats)", ".copy_(nats)"),
        orders_are_a_mixture,
    ),
    "the kept calibration is measured again": (
        Edit(command, "_calibrated", "None if new else kept_by(folder, scorer, settings)", "None"),
        a_kept_calibration_is_used,
    ),
    "the kept calibration has no expected bits of pixels": (
        Edit(kept_calibration, "_rebuilt", "tensors[_EXPECTED].numpy() if _EXPECTED in tensors else None", "None"),
        a_kept_calibration_is_used,
    ),
    "the kept kind of score is forgotten": (
        Edit(command, "_calibrated", "options.kind or kept.kind", "options.kind or 'auto'"),
        a_kept_calibration_is_used,
    ),
    "the kept rate is forgotten": (
        Edit(command, "_calibrated", "kept.false_alarms if options", "_RATE if options"),
        a_kept_calibration_is_used,
    ),
    "the weights are not looked at": (
        Edit(kept_calibration, "fingerprint", "sha.update(values", "str(values"),
        other_weights_are_refused,
    ),
    "what has changed is not looked at": (
        Edit(kept_calibration, "kept_by", "about.basis.changed(_basis(scorer))", "()"),
        other_weights_are_refused,
    ),
    "the calibration images are read as in training": (
        Edit(command, "_calibrated", "None if is_own(chosen) else settings", "None"),
        other_settings_are_refused,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_edit_turns_its_check_red(
    monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, check = MUTATIONS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("test_score_mutations._COMMANDS", [caller(capsys)])
    check()
    edit.make(monkeypatch)
    for path in (*Path().glob("*.csv"), *Path().glob("?")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(AssertionError):
        check()
