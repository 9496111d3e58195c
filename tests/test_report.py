"""What is shown of models side by side is what their folders hold, and what does not compare is never on one axis."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

import pixelloom
from gan_toys import PAIRS, awake
from pixelloom.cli import main
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.family import GenerativeModel
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.models.training_record import TrainingRecord
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.report import charts, collect, html, png
from pixelloom.report.collect import CompareOptions
from pixelloom.report.model import Comparison, Group
from pixelloom.runs.evaluate import some_images
from pixelloom.viz import canvas, curves
from pixelloom.viz import grid as plots
from settings import live
from small_models import flat

DIGITS = ImageSpec(1, 8, 8, 17)
PIXEL_LINES = [
    {"split": "train", "step": 10, "images": 640, "bits/dim": 3.5},
    {"split": "val", "step": 10, "images": 640, "bits/dim": 3.25, "nats/image": 144.0},
    {"split": "train", "step": 20, "images": 1280, "bits/dim": 2.5},
    {"split": "val", "step": 20, "images": 1280, "bits/dim": 2.125, "nats/image": 94.25},
    {"split": "val", "step": 30, "images": 1920, "bits/dim": 2.75, "nats/image": 122.0},
]
LATENT_LINES = [
    {"split": "train", "step": 10, "images": 640, "D/real": 0.5, "D/fake": -0.5, "D/r_t": 0.25},
    {"split": "val", "step": 10, "images": 640, "kid-lenet-mnist": 0.5},
    {"split": "train", "step": 20, "images": 1280, "D/real": 1.5, "D/fake": -1.0, "D/r_t": 0.75},
    {"split": "val", "step": 20, "images": 1280, "kid-lenet-mnist": 0.125},
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)


def write(model: GenerativeModel, out: str, record: dict[str, Any], lines: list[dict[str, Any]] | None = None) -> str:
    """As a training leaves it; of ``validation``, what is not ``n`` or ``split`` are metrics."""
    if "validation" in record:
        others = {key: record["validation"][key] for key in ("n", "split") if key in record["validation"]}
        metrics = {key: value for key, value in record["validation"].items() if key not in others}
        record = record | {"validation": {"metrics": metrics} | others}
    whole = TrainingRecord.model_validate(model.description.training.model_dump() | record)
    model.description = model.description.model_copy(update={"training": whole})
    model.save(Path(out) / "model")
    if lines is not None:
        (Path(out) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def pixel(
    out: str,
    spec: ImageSpec = DIGITS,
    lines: list[dict[str, Any]] | None = PIXEL_LINES,
    stirred: bool = False,
    **data: Any,
) -> str:
    model = flat(spec, DataConfig(**data).model_dump(mode="json"))
    if stirred:
        live(model.network)
    figures = {"bits/dim": 2.125, "nats/image": 94.25, "n": 151}
    return write(model, out, {"images": 1280, "epochs": 1.5, "minutes": 2.25, "validation": figures}, lines)


def latent(
    out: str,
    lines: list[dict[str, Any]] | None = LATENT_LINES,
    figures: dict[str, Any] | None = None,
    classes: int = 0,
    **data: Any,
) -> str:
    network, config = PAIRS["dcgan"]
    model = GANModel.build(
        GANDescription(network=network, model=config, image=ImageSpec(1, 16, 16, 256), classes=classes)
    )
    awake(model.network)
    trained = {"data": DataConfig(**{"source": "shapes", "size": 16, "gray": True} | data).model_dump(mode="json")}
    figures = {"kid-lenet-mnist": 0.125, "n": 800} if figures is None else figures
    return write(model, out, trained | {"images": 1280, "minutes": 12.5, "validation": figures}, lines)


def gather(names: list[str], n: int = 16, seed: int = 0, **more: Any) -> Comparison:
    return collect.gather(names, CompareOptions(n, seed, **more))


def grounds(found: Comparison) -> list[list[str]]:
    """Names of the models that each chart may hold."""
    return [[found.models[place].name for place in group.members] for group in found.groups()]


# -------------------------------------------------------------------------------------------------------- gathering


def test_the_table_holds_what_the_folders_hold() -> None:
    found = gather([pixel("runs/a"), latent("runs/b")], 3, seed=5)
    assert (found.number, found.seed, found.broken) == (3, 5, ())
    for entry, name in zip(found.models, ("a", "b"), strict=True):
        model = pixelloom.load(f"runs/{name}")
        kept = json.loads(Path(f"runs/{name}/model/config.json").read_text())
        assert (entry.name, entry.network, entry.family) == (name, kept["network"], kept["family"])
        assert entry.parameters == sum(p.numel() for p in model.network.parameters())
        assert np.array_equal(entry.samples, model.sample(3, seed=5).numpy())
        assert entry.sha256 in (Path(f"runs/{name}/model/model.safetensors").read_bytes()[:8000]).decode(
            errors="ignore"
        )
    a, b = (entry.row() for entry in found.models)
    assert a["network"] == "pixelcnn, recipe flat"
    assert a["data"] == "digits: 1x8x8 with 17 levels"
    assert (a["images seen"], a["minutes"], a["saved at step"]) == ("1,280 (1.5 epochs)", "2.25", "20")
    assert a["validation"] == "2.1250 bits/dim, 94.25 nats/image (N=151)"
    assert b["data"] == "shapes (size 16, gray): 1x16x16 with 256 levels"
    assert (b["images seen"], b["minutes"], b["saved at step"]) == ("1,280", "12.5", "20")
    assert b["validation"] == "0.125 kid-lenet-mnist (N=800)"
    assert a.keys() == b.keys()
    assert a["checksum"] == found.models[0].sha256


def test_seconds_are_those_of_one_call_after_one_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times, asked, sample = iter([10.0, 16.0]), list[int](), PixelModel.sample

    def watched(self: PixelModel, n: int, **told: Any) -> torch.Tensor:
        asked.append(n)
        return sample(self, n, **told)

    monkeypatch.setattr(PixelModel, "sample", watched)
    monkeypatch.setattr(collect.time, "perf_counter", lambda: next(times))
    (entry,) = gather([pixel("runs/a")], 4).models
    assert asked == [1, 4]
    assert entry.seconds == 6 / 4
    assert entry.row()["seconds per image"] == "1.5 (1 thread)"


def test_models_are_found_by_any_of_their_names_and_shown_once() -> None:
    pixel("runs/a")
    found = gather(["a", "runs/a", "runs/a/model", "binarized-mnist"], 1)
    assert [entry.name for entry in found.models] == ["a", "binarized-mnist"]
    assert found.models[1].validation["nats/image"] == pytest.approx(80.06, abs=0.01)
    assert found.models[1].step is None  # it came without the metrics of its run
    (alone,) = gather(["runs/a/model/"], 1).models
    assert (alone.name, alone.step) == ("runs/a/model/", 20)
    pixel("else/a")
    assert [entry.name for entry in gather(["runs/a", "else/a"], 1).models] == ["runs/a", "else/a"]


def test_a_run_whose_best_and_last_models_are_shown_has_one_curve() -> None:
    latent("runs/b")
    model = pixelloom.load("runs/b")
    write(model, "runs/b/last", {"images": 640, "validation": {"kid-lenet-mnist": 0.5, "n": 800}})
    Path("runs/b/last/model").rename("runs/b/last-model")
    Path("runs/b/last").rmdir()
    Path("runs/b/last-model").rename("runs/b/last")
    found = gather(["runs/b", "runs/b/last"], 1)
    assert [(entry.name, entry.step) for entry in found.models] == [("runs/b", 20), ("runs/b/last", 10)]
    assert grounds(found) == [["runs/b", "runs/b/last"]]
    distance, judge = charts.charts(found)
    (axes,) = distance.draw().axes
    drawn = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert drawn.count([[640, 0.5], [1280, 0.125]]) == 1
    assert judge.title == "Discriminator of runs/b"


def test_what_cannot_be_shown_is_listed_with_its_reason() -> None:
    Path("empty").mkdir()
    damaged = Path(pixel("runs/damaged")) / "model/model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 1
    damaged.write_bytes(content)
    found = gather([pixel("runs/a"), "empty", "runs/damaged", "nothing"], 1)
    assert [entry.name for entry in found.models] == ["a"]
    assert [name for name, _ in found.broken] == ["empty", "runs/damaged", "nothing"]
    empty, damage, nothing = (reason for _, reason in found.broken)
    assert empty.startswith("holds no model")
    assert "model.safetensors" in damage
    assert "no model is called 'nothing'" in nothing
    with pytest.raises(ModelError, match=r"none of these can be shown(.|\n)*empty: holds no model(.|\n)*nothing"):
        gather(["empty", "nothing"], 1)


def test_more_samples_than_an_image_can_hold_are_not_drawn() -> None:
    with pytest.raises(ModelError, match="too many to be opened"):
        gather([pixel("runs/a")], 10**7)


def test_memory_that_runs_out_is_a_reason_and_a_fault_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> Callable[..., torch.Tensor]:
        def sample(*_: object, **__: object) -> torch.Tensor:
            raise error

        return sample

    names = [pixel("runs/a"), latent("runs/b")]
    monkeypatch.setattr(PixelModel, "sample", raising(torch.OutOfMemoryError("CUDA out of memory")))
    assert gather(names, 2).broken == (("runs/a", "out of memory; draw fewer with -n"),)
    monkeypatch.setattr(PixelModel, "sample", raising(RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        gather(names, 2)


def test_classes_are_drawn_in_turn() -> None:
    (entry,) = gather([latent("runs/b", classes=3)], 5).models
    model = pixelloom.load("runs/b")
    assert isinstance(model, GANModel)
    assert np.array_equal(entry.samples, model.sample(5, labels=torch.tensor([0, 1, 2, 0, 1])).numpy())
    assert entry.caption(0) == "5 samples, seed 0, classes in order"


def test_conditioning_images_are_those_of_validation() -> None:
    description = PixelDescription(
        network="gated-pixelcnn",
        model=GatedPixelCNNConfig(channels=4, layers=1, first_kernel=3, kernel=3),
        head=HeadConfig(kind="categorical"),
        image=DIGITS,
        scaling=Scaling.symmetric(),
        condition="downsample@2",
    )
    data = DataConfig().model_dump(mode="json")
    write(PixelModel.build(description), "runs/c", {"data": data, "validation": {"bits/dim": 1.0}})
    model = pixelloom.load("runs/c")
    assert isinstance(model, PixelModel)
    assert model.condition is not None
    (entry,) = gather(["runs/c"], 3).models
    truth = some_images(model.spec, DataConfig(), "val", 3)
    seen = model.condition.of(truth)
    assert np.array_equal(entry.samples, model.sample(3, condition=seen).numpy())
    assert entry.given is not None
    assert np.array_equal(entry.given, model.condition.to_images(seen).numpy())
    assert dict(entry.protocols["bits/dim"])["conditioning"] == "downsample@2"
    write(model, "runs/lost", {"data": DataConfig(source="absent-pictures").model_dump(mode="json")})
    ((_, reason),) = gather(["runs/c", "runs/lost"], 1).broken
    assert "absent-pictures" in reason


@pytest.mark.parametrize(
    "trained",
    [
        {"images": 10**300, "minutes": 1e300, "validation": {"bits/dim": 1e300, "n": 10**300}},
        {"validation": {"bits/dim": float("nan")}, "data": {"source": ""}},
        {},
    ],
)
def test_a_record_may_hold_any_numbers_or_none(trained: dict[str, Any]) -> None:
    write(flat(DIGITS), "runs/odd", trained, PIXEL_LINES)
    found = gather(["runs/odd"], 1)
    assert html.page(found).count("<tr>") == 2
    assert png.draw(found).width > 600


def test_sample_metrics_are_those_that_measuring_gives() -> None:
    asked = {"metrics": ("kid", "precision"), "measured": 60}
    unknown = write(flat(DIGITS), "runs/c", {})
    found = gather([pixel("runs/a"), latent("runs/b"), unknown], 2, 7, **asked)
    for entry in found.models[:2]:
        truth = pixelloom.measure(pixelloom.load(entry.name), metrics=["kid", "precision"], n=60, seed=7)
        assert [figure.name for figure in truth] == ["kid-natural", "precision-natural"]
        assert entry.measured == tuple(truth)
    ours, theirs = found.tables()
    assert ours.title == "sample metrics on digits, 1x8x8, 17 levels, reference test images"
    for place, table in enumerate((ours, theirs)):
        assert table.columns == ("kid-natural", "precision-natural")
        ((member, (distance, share)),) = table.rows
        kid, precision = found.models[place].measured
        assert member == place
        assert kid.baseline is not None
        assert precision.baseline is not None
        assert (
            distance == f"{kid.value:.4g} ± {kid.standard_error:.2g}; real {kid.baseline:.4g}; N=60 / {kid.reference:,}"
        )
        n = f"N={precision.n:,} / {precision.reference:,}"
        assert share == f"{precision.value:.4g}; real {precision.baseline:.4g}; {n}"
    assert found.models[2].measured == ()
    (reason,) = found.unmeasured()
    assert reason.startswith("c: data: this model has no record of its training data")
    read = Read(html.page(found))
    assert ours.heads == ("kid-natural ↓", "precision-natural ↑")
    assert {*ours.heads, distance, share, reason} <= set(read.text)
    assert png.draw(found).height > png.draw(gather(["runs/a", "runs/b", "runs/c"], 2)).height + 100
    assert [group.metric for group in found.groups()][1::2] == ["sample metrics"] * 2
    assert found.not_comparable()[0].startswith(
        "sample metrics of a and of b: different data (digits, shapes); different size"
    )
    assert gather(["runs/a"], 1).tables() == []
    held_out = gather(["runs/a"], 1, 7, **asked, split="val")
    truth = pixelloom.measure(pixelloom.load("runs/a"), metrics=["kid", "precision"], n=60, seed=7, split="val")
    assert held_out.models[0].measured == tuple(truth) != found.models[0].measured
    assert held_out.tables()[0].title.endswith("reference val images")
    for wrong in ("likelihood", "fid"):
        with pytest.raises(UsageError, match=f"'{wrong}' is not a sample metric; there are kid, fd"):
            gather(["runs/a"], 1, metrics=("kid", wrong))


# -------------------------------------------------------------------------------------------------- what compares


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"source": "shapes"}, "different data (digits, shapes)"),
        ({"spec": ImageSpec(1, 8, 8, 4), "levels": 4}, "different levels (17, 4)"),
        ({"spec": ImageSpec(1, 4, 8, 17)}, "different size (1x8x8, 1x4x8)"),
        ({"binarize": "static"}, "different binarize (none, static)"),
        ({"seed": 3}, "different data seed (0, 3)"),
        ({"limit": 500}, None),  # of the training images: validation is the same
        ({"root": Path("/elsewhere")}, None),
    ],
)
def test_a_likelihood_compares_on_the_same_images_only(other: dict[str, Any], why: str | None) -> None:
    found = gather([pixel("runs/a"), pixel("runs/b"), pixel("runs/c", **other)], 1)
    if why is None:
        assert grounds(found) == [["a", "b", "c"]]
        assert found.not_comparable() == []
    else:
        assert grounds(found) == [["a", "b"], ["c"]]
        assert found.not_comparable() == [f"bits/dim of a, b and of c: {why}."]


def test_unknown_data_compare_with_nothing() -> None:
    for name in ("a", "b"):
        write(flat(DIGITS), f"runs/{name}", {"validation": {"bits/dim": 1.0}})
    assert grounds(gather(["runs/a", "runs/b"], 1)) == [["a"], ["b"]]


def test_distances_compare_by_extractor_split_and_not_by_family() -> None:
    train = {"kid-lenet-mnist": 0.1, "n": 800, "split": "training"}
    names = [
        latent("runs/a"),
        latent("runs/b", classes=3),  # a distance is one of samples, whatever they were told
        latent("runs/c", [], {"kid-pixels": 0.5, "n": 800}),
        latent("runs/d", [], train),
        pixel("runs/e"),
    ]
    found = gather(names, 1)
    assert grounds(found) == [["a", "b"], ["c"], ["d"], ["e"]]
    assert found.not_comparable() == [
        "kid-lenet-mnist of a, b and of d: different reference (validation images, training images).",
        "kid-lenet-mnist and kid-pixels: distances in different features.",
        "bits/dim and kid-lenet-mnist or kid-pixels: the first is the code length of held-out images under a model, "
        "the second a distance between samples and held-out images.",
    ]
    assert found.models[3].row()["validation"] == "0.1 kid-lenet-mnist (N=800, training)"


def test_other_numbers_of_images_are_reported() -> None:
    figures = {"kid-lenet-mnist": 0.25, "n": 1200}
    found = gather([latent("runs/a"), latent("runs/b", figures=figures)], 1)
    assert grounds(found) == [["a", "b"]]
    assert found.cautions() == ["kid-lenet-mnist was measured on different numbers of images: a 800, b 1200."]


def test_a_title_names_the_ground() -> None:
    found = gather([pixel("runs/a", binarize="static")], 1)
    (group,) = found.groups()
    assert group.title == "bits/dim on digits, 1x8x8, 17 levels, binarize static"
    assert (
        Group("x", (("data", "d"), ("size", "s"), ("levels", "2"), ("fit", "crop")), ()).title == "x on d, s, 2 levels"
    )


# ------------------------------------------------------------------------------------------------------- drawing


def mixed() -> Comparison:
    """Two runs whose metrics compare, and one of the other family."""
    slow = [line | {"bits/dim": line["bits/dim"] + 1} for line in PIXEL_LINES]
    return gather([pixel("runs/a"), pixel("runs/b", lines=slow, stirred=True), latent("runs/c")], 4, seed=1)


@pytest.mark.parametrize(
    ("figure", "ends", "scale"),
    [
        ("kid-x", (0.01, 3.0), "log"),  # the nearer run would lie on the baseline
        ("kid-x", (0.5, 3.0), "linear"),
        ("kid-x", (-0.001, 3.0), "linear"),  # a distance of 0 in expectation may be below it
        ("bits/dim", (0.01, 3.0), "linear"),
    ],
)
def test_distances_that_lie_far_apart_share_a_logarithmic_axis(
    figure: str, ends: tuple[float, float], scale: str
) -> None:
    seen = np.array([1.0, 2.0])
    lines = [charts.Line(f"{end}", "red", curves.Series(seen, np.array([4.0, end]), seen)) for end in ends]
    axes = charts.overlay(figure, lines).axes[0]
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < min(ends)
    assert high > max(ends)
    assert scale == "linear" or low > 0


def test_charts_draw_the_numbers_of_the_files() -> None:
    found = mixed()
    bits, distance, judge = charts.charts(found)
    assert [chart.title for chart in (bits, distance, judge)] == [
        "bits/dim on digits, 1x8x8, 17 levels",
        "kid-lenet-mnist on shapes, 1x16x16, 256 levels",
        "Discriminator of c",
    ]
    assert bits.alt.endswith("Lowest: a 2.125, b 3.125")
    (axes,) = bits.draw().axes
    lines = {(to_hex(line.get_color()), json.dumps(np.asarray(line.get_xydata()).tolist())) for line in axes.lines}
    for place, more in ((0, 0.0), (1, 1.0)):
        color = charts.color(place)
        assert (color, json.dumps([[640.0, 3.25 + more], [1280.0, 2.125 + more], [1920.0, 2.75 + more]])) in lines
    (axes,) = distance.draw().axes
    drawn = [np.asarray(line.get_xydata()).tolist() for line in axes.lines]
    assert [[640, 0.5], [1280, 0.125]] in drawn
    assert {to_hex(axes.lines[0].get_color())} == {charts.color(2)}
    margins, dial = judge.draw().axes
    assert [[640, 0.5], [1280, 1.5]] in [np.asarray(line.get_xydata()).tolist() for line in margins.lines]
    assert [[640, 0.25], [1280, 0.75]] in [np.asarray(line.get_xydata()).tolist() for line in dial.lines]


def test_runs_of_very_different_lengths_share_a_logarithmic_axis() -> None:
    long = [*PIXEL_LINES, {"split": "val", "step": 900, "images": 57600, "bits/dim": 1.5}]
    (chart,) = charts.charts(gather([pixel("runs/a"), pixel("runs/b", lines=long)], 1))
    (axes,) = chart.draw().axes
    assert axes.get_xscale() == "log"
    (chart,) = charts.charts(gather([pixel("runs/a")], 1))
    (axes,) = chart.draw().axes
    assert (axes.get_xscale(), axes.get_xlim()[0]) == ("linear", 0)


@pytest.mark.parametrize("name", ["$x^2$", "_hidden", "a" * 80])
def test_a_name_is_text_in_a_legend(name: str) -> None:
    (chart,) = charts.charts(gather([pixel(f"runs/{name}")], 1))
    figure = chart.draw()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    (text,) = legend.get_texts()
    shown = text.get_text()
    assert shown.endswith(": 2.125")
    assert shown.startswith(name if len(name) < 44 else f"{'a' * 21}…{'a' * 21}:")
    assert not text.get_parse_math()
    assert legend.get_window_extent().width < figure.bbox.width


def test_every_letter_takes_the_ink() -> None:
    for chart in charts.charts(mixed()):
        figure = chart.draw()
        with Image.open(io.BytesIO(charts.in_ink(figure, "#12ab34"))) as png:
            pixels = np.asarray(png.convert("RGBA"))
        assert pixels[0, 0, 3] == 0  # without ground
        full = pixels[pixels[..., 3] == 255][:, :3].astype(int)
        assert ((full == (0x12, 0xAB, 0x34)).all(1)).sum() > 200
        assert (full.sum(1) < 30).sum() == 0  # nothing is left in black


class Read(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def pictures(self) -> list[np.ndarray]:
        """Those shown pixel by pixel."""
        found = []
        for tag, attributes in self.tags:
            if tag == "img" and attributes.get("class") == "pixels":
                _, content = str(attributes["src"]).split("base64,")
                found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))))
        return found


def test_the_page_holds_samples_metrics_and_curves_and_needs_nothing_else() -> None:
    found = mixed()
    found = replace(found, broken=(("d", "holds no model"),))
    text = html.page(found)
    read = Read(text)
    grids = [np.asarray(plots.grid(entry.samples, entry.spec.levels)) for entry in found.models]
    for shown, grid in zip(read.pictures(), grids, strict=True):
        assert np.array_equal(shown, grid)
    cells = [t.strip() for t in read.text]
    for entry in found.models:
        for value in (entry.name, *entry.row().values()):
            assert value in cells
    for line in (*found.not_comparable(), found.summary, ": holds no model"):
        assert line in cells
    sources = [a for tag, attributes in read.tags for name in ("src", "srcset", "href") if (a := attributes.get(name))]
    assert len(sources) == 3 + 2 * 3  # one image per model; a chart in light and in dark
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {tag for tag, _ in read.tags} & {"script", "link", "iframe"}
    assert "url(" not in text
    light, dark = (
        [attributes["src"] for tag, attributes in read.tags if tag == "img" and attributes.get("class") == which]
        for which in ("light", "dark")
    )
    assert len(light) == len(dark) == 3
    assert not set(light) & set(dark)
    assert "@media (prefers-color-scheme: dark) { .dark { display: block; } .light { display: none; } }" in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read.tags


EVIL = '<script>alert("1")</script>'


def test_nothing_that_a_file_says_becomes_code() -> None:
    name = "runs/<img src=x onerror=alert(1)> {{ 7 * 7 }}"
    data = {"source": EVIL, "background": EVIL}
    trained = {"data": data, "recipe": EVIL, "validation": {EVIL: 1.0, f"kid-{EVIL}": 2.0, "n": 3}}
    lines = [{"split": "val", "step": 1, "images": 5, f"kid-{EVIL}": 2.0}]
    write(flat(DIGITS), name, trained, lines)
    found = gather([name], 1)
    text = html.page(replace(found, broken=((EVIL, EVIL),)))
    read = Read(text)
    assert "script" not in {tag for tag, _ in read.tags}
    assert not [a for _, attributes in read.tags for a in attributes if a.startswith("on")]
    assert EVIL in "".join(read.text)  # told as it is
    assert "{{ 7 * 7 }}" in "".join(read.text)
    assert png.draw(found).width > 600


def test_the_image_has_the_samples_pixel_by_pixel_in_columns() -> None:
    found = mixed()
    drawn = np.asarray(png.draw(found))
    corners = []
    for entry in found.models:
        sizes = (plots.grid_layout(4, entry.spec.shape, scale=scale) for scale in range(1, 99))
        scale = max(layout.scale for layout in sizes if layout.size[1] <= 540)
        grid = np.asarray(plots.grid(entry.samples, entry.spec.levels, scale=scale).convert("RGB"))
        high, wide = grid.shape[:2]
        starts = [
            (y, x)
            for y, x in np.argwhere((drawn[: -high + 1, : -wide + 1] == grid[0, 0]).all(-1)).tolist()
            if (drawn[y, x : x + wide] == grid[0]).all() and (drawn[y : y + high, x : x + wide] == grid).all()
        ]
        assert len(starts) == 1
        corners += starts
    assert len({y for y, _ in corners}) == 1
    assert sorted(x for _, x in corners) == [x for _, x in corners]
    for place in range(3):
        ink = tuple(int(charts.color(place)[i : i + 2], 16) for i in (1, 3, 5))
        assert (drawn == ink).all(-1).any()


def test_many_models_stand_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "_ABREAST", 2)
    found = gather([pixel(f"runs/{name}", lines=None) for name in "abc"], 1)
    low, wide = (png.draw(replace(found, models=found.models[:k])) for k in (2, 3))
    assert wide.width == low.width
    assert wide.height > 1.5 * low.height
    assert canvas.wrap(canvas.Line("one two"), 10_000) == ["one two"]
    assert "".join(canvas.wrap(canvas.Line("x" * 99), 100)) == "x" * 99
    assert len(canvas.wrap(canvas.Line("x" * 99), 100)) > 5
    assert canvas.wrap(canvas.Line(""), 100) == []


# ------------------------------------------------------------------------------------------------------ the command


def compare(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["compare", *map(str, argv)])
    return code, *capsys.readouterr()


def test_the_command_writes_both_and_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    pixel("runs/a")
    latent("runs/b")
    code, out, err = compare(capsys, "a", "b", "nothing", "-n", 2, "--seed", 3)
    assert (code, out) == (0, "compare.html\ncompare.png\n")
    assert "warning: nothing: not shown: no model is called 'nothing'" in err
    shown = Read(Path("compare.html").read_text(encoding="utf-8")).pictures()
    for name, picture in zip("ab", shown, strict=True):
        model = pixelloom.load(name)
        assert np.array_equal(picture, np.asarray(plots.grid(model.sample(2, seed=3).numpy(), model.spec.levels)))
    with Image.open("compare.png") as png:
        assert png.format == "PNG"
    code, _, err = compare(capsys, "a", "--metrics", "kid, coverage", "--measured", 50, "--force", "--split", "val")
    assert code == 0
    assert "reference val images" in Path("compare.html").read_text(encoding="utf-8")
    assert "a: measuring 50 samples" in err
    assert "coverage-natural" in Path("compare.html").read_text(encoding="utf-8")
    assert compare(capsys, "a", "--out", "x/y.html")[:2] == (0, "x/y.html\nx/y.png\n")
    code, _, err = compare(capsys, "nothing", "--out", "none.html")
    assert code == 4
    assert "none of these can be shown" in err
    assert not Path("none.html").exists()


@pytest.mark.parametrize(("target", "file"), [("--out", "mine.html"), ("--png", "mine.png")])
def test_nothing_is_overwritten_without_force(target: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    pixel("runs/a", lines=None)
    Path(file).write_text("mine")
    code, _, err = compare(capsys, "a", target, file)
    assert code == 2
    assert f"{file}: exists already" in err
    assert Path(file).read_text() == "mine"
    assert not list(Path().glob("compare.*"))
    assert compare(capsys, "a", target, file, "--force")[0] == 0
    assert Path(file).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "name the models to compare"),
        (["a", "-n", "0"], "for -n. Must be >= 1."),
        (["a", "--seed", "-1"], "for --seed. Must be >= 0."),
        (["a", "--out", "x.png"], "name two files"),
        (["a", "--out", "."], "is a folder"),
        (["a", "--measured", "9"], "--measured: needs --metrics"),
        (["a", "--split", "val"], "--split: needs --metrics"),
        (["a", "--metrics", "kid", "--measured", "0"], "for --measured. Must be >= 1."),
        (["a", "--metrics", "kid,fid"], "'fid' is not a sample metric"),
    ],
)
def test_wrong_usage(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    pixel("runs/a", lines=None)
    code, out, err = compare(capsys, *argv)
    assert (code, out) == (2, "")
    assert part in err
    assert [path.name for path in Path().iterdir()] == ["runs"]
