"""A recipe is picked for images by a table of rules, and the log says which and why."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pixelloom as pl
from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.config import DataConfig
from pixelloom.runs.image_facts import image_facts, levels_needed
from pixelloom.runs.pick import FEW_IMAGES, IMAGES, RULES, ImageFacts, Means, pick
from pixelloom.runs.plan import planned

CPU, CUDA, HOUR = Means(), Means(cuda=True), Means(minutes=60)
DOCS = Path(__file__).parent.parent / "docs/how-to/which-recipe.md"


def facts(side: int, channels: int = 3, levels: int = 256, count: int = 1000, **given: Any) -> ImageFacts:
    return ImageFacts(count, side, side, channels, levels, **given)


CASES = [
    (facts(8, 1, 64, stored=64, palette=True), CPU, "gated-pixelcnn", {}),
    (facts(8, 1), CPU, "digits", {"data.levels": 32}),
    (facts(8, 1, 17, stored=17), CPU, "digits", {}),
    (facts(12, 3, 2), CPU, "digits", {"data.levels": 2}),
    (facts(13, 1), CPU, "dcgan", {"data.size": 16}),
    (facts(28, 1, count=24), CPU, "gated-pixelcnn", {"data.levels": 16}),
    (facts(28, 1, count=25), CPU, "dcgan", {"data.size": 32}),
    (facts(28, 1, 2), CPU, "gated-pixelcnn", {"data.levels": 2}),
    (facts(28, 1, 2, stored=2), CPU, "gated-pixelcnn", {}),
    (facts(128, 1, 2), CPU, "gated-pixelcnn", {"data.levels": 2, "data.size": 32}),
    (facts(128, 1, 2), HOUR, "gated-pixelcnn", {"data.levels": 2, "data.size": 64}),
    (facts(105, 1, 2, sized=True), CPU, "gated-pixelcnn", {"data.levels": 2}),
    (facts(32, 1, 16), CPU, "gated-pixelcnn", {"data.levels": 16}),
    (facts(32, 3, 4), CPU, "gated-pixelcnn", {"data.levels": 4}),
    (facts(32, 3, 8), CPU, "dcgan", {}),
    (facts(28, 3, sized=True), CPU, "gated-pixelcnn", {"data.levels": 16}),
    (facts(128, sized=True), CPU, "dcgan", {}),
    (facts(128), CPU, "dcgan", {"data.size": 32}),
    (facts(128), Means(minutes=59), "dcgan", {"data.size": 32}),
    (facts(128), HOUR, "sagan", {"data.size": 64}),
    (facts(64), CUDA, "sagan", {}),
    (facts(32), CUDA, "dcgan", {}),
    (facts(32, mixed=True), CPU, "dcgan", {"data.size": 32}),
    (ImageFacts(900, 56, 68, 1, 2), CPU, "gated-pixelcnn", {"data.levels": 2, "data.size": 32}),
    (ImageFacts(900, 32, 24, 3, 256), CPU, "dcgan", {"data.size": 32}),
]


@pytest.mark.parametrize(("images", "means", "recipe", "changes"), CASES)
def test_the_first_rule_that_applies_is_used(
    images: ImageFacts, means: Means, recipe: str, changes: dict[str, object]
) -> None:
    choice = pick(images, means, budget=True)
    assert (choice.recipe, choice.overrides) == (recipe, changes)
    assert choice.why.startswith(recipe)
    assert f"{images.count:,}" in choice.why


def test_every_rule_has_a_case_and_a_row_in_the_docs() -> None:
    used = {next(rule.when for rule in RULES if rule.applies(images, means)) for images, means, *_ in CASES}
    assert used == {rule.when for rule in RULES}
    page = DOCS.read_text()
    section = page.partition("## The rule")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert rows[1:] == [f"| {rule.when} | `{rule.recipe}` | {rule.why} |" for rule in RULES]
    assert f"train on {IMAGES:,} images" in page
    assert FEW_IMAGES == 25


def test_a_pixel_model_gets_a_budget_only_where_none_is_given() -> None:
    assert pick(facts(28, 1, 2), CPU).overrides["train.images"] == IMAGES
    assert "train.images" not in pick(facts(28, 1, 2), CPU, budget=True).overrides
    assert "train.images" not in pick(facts(32), CPU).overrides


def test_levels_needed_keep_values_apart() -> None:
    def needed(*values: int) -> int:
        return levels_needed(np.array(values, np.uint8))

    assert needed(0, 255) == 2
    assert needed(7) == 2
    assert needed(0, 127) == 4  # bins of 128 values join them
    assert needed(0, 85, 170, 255) == 4
    assert needed(*range(0, 256, 16)) == 16
    assert needed(0, 1) == 256  # labels stored as values: black if quantized
    assert needed(*range(256)) == 256


def folder(path: Path, arrays: list[np.ndarray[Any, Any]]) -> str:
    path.mkdir()
    for i, array in enumerate(arrays):
        Image.fromarray(array.astype(np.uint8)).save(path / f"{i:03d}.png")
    return str(path)


def test_facts_of_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = folder(tmp_path / "bits", [255 * rng.integers(0, 2, (20, 20)) for _ in range(200)])
    assert image_facts(DataConfig(source=bits)) == ImageFacts(200, 20, 20, 1, 2, 256, colors=2)
    color = [rng.integers(0, 256, (40, 30, 3)) for _ in range(3)]
    photos = folder(tmp_path / "photos", [*color, rng.integers(0, 256, (24, 50))])
    found = image_facts(DataConfig(source=photos))
    assert (found.count, found.height, found.width) == (4, 30, 30)  # the median of the shorter sides
    assert (found.channels, found.levels, found.colors, found.mixed, found.sized) == (3, 256, 256, True, False)
    sized = image_facts(DataConfig(source=photos, size="16x20", levels=4))
    assert (sized.height, sized.width, sized.levels, sized.stored) == (16, 20, 4, 4)
    assert (sized.mixed, sized.sized) == (False, True)


def test_facts_of_other_sources(tmp_path: Path) -> None:
    assert image_facts(DataConfig(source="digits")) == ImageFacts(1797, 8, 8, 1, 17, 17, colors=17)
    images = np.random.default_rng(0).integers(0, 2, (50, 16, 16)).astype(bool)
    assert image_facts(DataConfig(source="arrays"), images) == ImageFacts(50, 16, 16, 1, 2, 2, colors=2)
    with pytest.raises(DataError, match="nosuch"):
        image_facts(DataConfig(source="nosuch"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a\.png"):
        image_facts(DataConfig(source=str(tmp_path / "bad")))


def test_a_run_of_data_picks_a_recipe_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder(tmp_path / "faces", [255 * (np.arange(400).reshape(20, 20) % k > 1) for k in range(3, 43)])
    with caplog.at_level(logging.INFO, "pixelloom"):
        plan, out = planned(None, overrides={"data.source": source})
    assert (plan.recipe, plan.network, plan.data.levels) == ("gated-pixelcnn", "gated-pixelcnn", 2)
    assert (plan.train.images, plan.train.epochs, out) == (IMAGES, None, Path("runs/gated-pixelcnn-faces"))
    assert "recipe: gated-pixelcnn --levels 2 --images 60000 for 40 black-and-white images of 20x20" in caplog.text
    minutes, _ = planned(None, overrides={"data.source": source, "data.levels": 8, "train.minutes": 2})
    assert (minutes.data.levels, minutes.train.minutes, minutes.train.images) == (8, 2, None)
    named, _ = planned("dcgan", overrides={"data.source": source})
    assert named.recipe == "dcgan"


def test_neither_recipe_nor_data_says_what_to_do(tmp_path: Path) -> None:
    for options in ({}, {"train.minutes": 1}, {"data.size": 32}):
        with pytest.raises(UsageError, match=r"--data FOLDER.*train digits --minutes 1.*pixelloom list"):
            planned(None, overrides=options)
    with pytest.raises(UsageError, match="resume: name the run"):
        planned(None, overrides={"data.source": "digits"}, resume=True)
    with pytest.raises(UsageError, match=f"train --data {tmp_path}"):
        planned(str(tmp_path))


def test_python_picks_for_arrays_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 2, (60, 8, 8)).astype(bool)
    small: dict[str, object] = {"model.channels": 4, "model.hidden": 2, "model.blocks": 1, "samples": 0}
    model = pl.train(data=images, images=32, out=tmp_path / "run", overrides=small)
    assert (model.description.network, model.description.training.recipe) == ("pixelcnn", "digits")
    assert model.spec.levels == 2
