"""The table of metrics: every result has its metric, and the table says what the metrics do."""

from __future__ import annotations

import pytest
import torch

from image_toys import toy_images
from pixelloom.metrics.class_accuracy import accuracy
from pixelloom.metrics.results import METRICS, Reference, measure
from pixelloom.metrics.table import TABLE, in_group, is_distance, metric_of, selecting, value_text


def test_names_are_unique_and_every_result_is_in_the_table() -> None:
    assert len({metric.name for metric in TABLE}) == len(TABLE)
    samples, held_out, training = (toy_images(70, seed) for seed in range(3))
    results = measure(samples, Reference(held_out, training), 16, extractor="pixels")
    found = [metric_of(result.name) for result in results]
    assert [metric.name for metric in found if metric] == [*METRICS, "gap", "copied"]
    digits = accuracy(samples[:3], torch.tensor([1, 2, 3]), 16)
    assert metric_of(digits.name) == next(metric for metric in TABLE if metric.name == "accuracy")


@pytest.mark.parametrize(
    ("result", "name"),
    [
        ("kid-lenet-mnist", "kid"),
        ("kid-lenet-mnist-by-class", "kid"),
        ("fd-inception-1a2b3c4d", "fd"),
        ("bits/dim", "bits/dim"),
        ("D/r_t", "D/r_t"),
        ("kidney-x", None),
        ("bits/dim-x", None),
        ("G/loss", None),
    ],
)
def test_a_result_is_found_by_its_name(result: str, name: str | None) -> None:
    found = metric_of(result)
    assert (None if found is None else found.name) == name


def test_models_are_selected_by_metrics_of_which_lower_is_better() -> None:
    assert {metric.name for metric in TABLE if metric.selects} == {"bits/dim", "kid"}
    assert {metric.better for metric in TABLE if metric.selects} == {"lower"}
    assert selecting(["nats/image", "kid-b", "fd-a", "bits/dim", "kid-a"]) == ["kid-b", "bits/dim", "kid-a"]
    assert [is_distance(name) for name in ("kid-x", "fd-x", "bits/dim", "copied-pixels")] == [True, True, False, False]


def test_directions_are_those_that_worse_samples_move_in() -> None:
    """Noise in place of images: what is better when lower rises, and the other way round."""
    held_out, training, good = (toy_images(150, seed) for seed in range(3))
    noise = good.flatten(1)[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))].reshape(good.shape)
    reference = Reference(held_out, training)
    one, other = (measure(x, reference, 16, extractor="pixels") for x in (good, noise))
    for better, worse in zip(one, other, strict=True):
        metric = metric_of(better.name)
        assert metric is not None
        if metric.better == "lower":
            assert better.value < worse.value
        elif metric.better == "higher":
            assert better.value > worse.value
    assert in_group("share") == ("precision", "recall", "density", "coverage")


def test_values_as_text() -> None:
    assert value_text("bits/dim", 0.14759) == "0.1476 bits/dim"
    assert value_text("nats/image", 80.0625) == "80.06 nats/image"
    assert value_text("kid-x", 0.0123456) == "0.01235 kid-x"
    assert value_text("other", 2.0) == "2 other"
    assert [metric.arrow for metric in TABLE if metric.name in ("kid", "recall", "gap")] == ["↓", "↑", ""]
