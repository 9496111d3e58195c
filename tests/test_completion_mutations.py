"""The checks of completion can fail: a line of the source is rewritten, and the check turns red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import test_completion
from checks import all_images
from pixelloom.data.conditions import Condition
from pixelloom.models import completion, pixel
from pixelloom.models.order_ensemble import InSequence
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.particles import Particles
from test_completion import BITS, MASKS, masked_model
from test_rewritten import Edit


def known_pixels_stay() -> None:
    """With a conditioning image of the known pixels, every sample has them."""
    model, hidden = masked_model(), torch.tensor(MASKS["center"]).bool()
    images = all_images(BITS)[100:140]
    drawn = model.complete(images, hidden, 4).images
    assert torch.equal(drawn[..., ~hidden], images[:, None, :, ~hidden].expand(-1, 4, -1, -1))


def rows_continue_their_ancestors() -> None:
    """Of networks with caches of several kinds."""
    for name in ("pixelcnn-pp", "pixel-transformer", "diagonal-bilstm"):
        test_completion.test_rows_continue_their_ancestors(name)


def hidden_pixels_alone_are_counted() -> None:
    """The probabilities of all completions sum to 1."""
    test_completion.test_a_model_of_partly_known_images_is_a_distribution_of_the_hidden_pixels("corners")


def orders_are_weighted() -> None:
    """By the probability of the known pixels."""
    test_completion.test_half_planes_are_exact_in_one_of_eight_orders("left")


MUTATIONS: dict[str, tuple[Edit, Callable[[], None]]] = {
    "a known pixel is drawn": (
        Edit(pixel, "check_known", "given, mask = rule.known(condition)", "given = mask = None"),
        known_pixels_stay,
    ),
    "the weight of a step is forgotten": (
        Edit(Particles, "weigh", "self.log_weights += ", "self.log_weights = "),
        test_completion.test_weights_by_hand,
    ),
    "the weights of resampled particles stay": (
        Edit(Particles, "ancestors", "self.log_weights[poor] = 0.0", "pass"),
        test_completion.test_weights_by_hand,
    ),
    "the evidence forgets resampling": (
        Edit(Particles, "ancestors", "self.log_evidence[poor] += log_mean_exp(self.log_weights[poor])", "pass"),
        test_completion.test_weights_by_hand,
    ),
    "features stay where they are when particles are resampled": (
        Edit(Cache, "reorder", "view.copy_(view[:, images])", "pass"),
        rows_continue_their_ancestors,
    ),
    "all orders count alike": (
        Edit(completion, "_in_orders", "known.softmax(0)", "torch.full_like(known, 1 / len(ways))"),
        orders_are_weighted,
    ),
    "images are not put back from the sequence of their order": (
        Edit(InSequence, "put_back", "self.places.argsort()", "self.places"),
        orders_are_weighted,
    ),
    "hidden pixels are shown": (
        Edit(Condition, "partly", "images * known", "images"),
        hidden_pixels_alone_are_counted,
    ),
    "known pixels are counted": (
        Edit(Condition, "hidden", "levels[:, -1:] == 0", "levels[:, -1:] >= 0"),
        hidden_pixels_alone_are_counted,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_an_edit_turns_its_check_red(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    edit, check = MUTATIONS[name]
    check()
    edit.make(monkeypatch)
    with pytest.raises(AssertionError):
        check()
