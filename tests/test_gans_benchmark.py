"""benchmarks/gans.py: both recipes of a network, seed by seed, each by its best and its last model, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from pixelloom import api
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.metrics.results import Reference, measure
from pixelloom.networks.gan.dcgan import DCGANConfig
from pixelloom.runs.compose import compose, read_yaml
from pixelloom.runs.config import GANRun
from pixelloom.runs.folder import BEST, CONFIG, LAST
from pixelloom.runs.recipes import RECIPES
from scripts import script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gans() -> ModuleType:
    return script("gans")


def test_both_recipes_of_a_network_are_measured_on_test_images(
    gans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("dcgan", "dcgan-tutorial"):
        small = {"data": DataConfig(source="digits", size=16), "model": DCGANConfig(generator_width=2)}
        monkeypatch.setitem(RECIPES, name, RECIPES[name].model_copy(update=small))
    options = ["--json", "--network=dcgan", "--images=128", "--seeds=2", f"--out={tmp_path}"]
    assert gans.main(options) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["recipe"], row["kept"], row["seed"]) for row in rows] == [
        (recipe, kept, seed) for seed in (0, 1) for recipe in ("dcgan-tutorial", "dcgan") for kept in ("best", "last")
    ]
    for row in rows:
        out = tmp_path / f"{row['recipe']}-128-{row['seed']}"
        config = compose(GANRun(), file=read_yaml(out / CONFIG))
        assert (config.train.images, config.train.seed) == (128, row["seed"])
        kept = out / LAST if row["kept"] == "last" and (out / LAST).is_dir() else out / BEST
        model, data = api.load(kept), load(config.data)
        reference = Reference(data.test.all()[0], data.train.all()[0])
        samples = model.sample(len(data.test), seed=1)
        (kid,) = measure(samples, reference, data.spec.levels, metrics=["kid"], source="digits")
        assert row["metrics"]["kid-natural"]["value"] == pytest.approx(kid.value)
        assert row["metrics"]["kid-natural"]["n"] == len(data.test) == 269
    assert gans.main(options) == 0
    said = capsys.readouterr()
    assert said.out == "", "what is there is not done again"
    assert said.err.count("already") == 2


def test_the_table_has_means_and_ranges_over_seeds(gans: ModuleType) -> None:
    found = [
        {"recipe": recipe, "kept": "last", "images": n, "metrics": {"kid-x": {"value": value, "baseline": 0.5}}}
        for recipe, n, values in (
            ("dcgan-tutorial", 20_000, (4.0, 5.0, 9.0)),
            ("dcgan", 20_000, (1.0, 1.0, 1.0)),
            ("dcgan", 120_000, (0.25,)),
        )
        for value in values
    ]
    assert gans.table(found).splitlines() == [
        "| recipe | images | kept | seeds | kid-x |",
        "|---|---|---|---|---|",
        "| `dcgan-tutorial` | 20,000 | last | 3 | 6.000 (4.000 to 9.000) |",
        "| `dcgan` | 20,000 | last | 3 | 1.000 |",
        "| `dcgan` | 120,000 | last | 1 | 0.250 |",
        "| real images | | | | 0.500 |",
    ]
