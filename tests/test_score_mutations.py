"""The checks of scores can fail: a line of the source is rewritten, and the check turns red."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import test_pixel_bits
from pixelloom.models import scoring
from test_rewritten import Edit


def classes_are_a_mixture() -> None:
    test_pixel_bits.test_pixels_sum_to_the_image_and_are_conditionals_of_the_mixture("classes")


def orders_are_a_mixture() -> None:
    test_pixel_bits.test_pixels_sum_to_the_image_and_are_conditionals_of_the_mixture("orders of MADE")


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
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_edit_turns_its_check_red(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    edit, check = MUTATIONS[name]
    check()
    edit.make(monkeypatch)
    with pytest.raises(AssertionError):
        check()
