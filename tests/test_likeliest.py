"""Top-k and top-p sampling: the exact distributions by their definition, on levels and on images of small worlds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from checks import JUST_BELOW_1, Method, all_images, check_draws, check_fast_is_plain, check_world_sums_to_one
from commands import Command, caller
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.heads.config import HeadConfig
from pixelloom.heads.discrete import Bernoulli, Categorical, Head
from pixelloom.heads.likeliest import Likeliest, likeliest
from pixelloom.heads.logistic_mixture import Logistics
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.pixel.made import MADEConfig
from settings import BERNOULLI, INDEPENDENT, ORDERED, tiny
from small_models import flat, save_run
from test_order_ensemble import model_of

LOGISTICS = HeadConfig(kind="logistics", mixtures=3)
WORLDS = {
    "Bernoulli": tiny("residual", BERNOULLI, ImageSpec(1, 2, 2, 2)),
    "levels": tiny("gated", ORDERED, ImageSpec(1, 2, 2, 5)),
    "ordered color": tiny("gated", ORDERED, ImageSpec(3, 2, 1, 4)),
    "independent color": tiny("gated", INDEPENDENT, ImageSpec(3, 2, 1, 4)),
    "logistics": tiny("gated", LOGISTICS, ImageSpec(3, 2, 1, 4)),
}
TOPS: list[dict[str, Any]] = [{"top_k": 2}, {"top_p": 0.8}, {"top_k": 3, "top_p": 0.9, "temperature": 1.4}]


def kept(p: npt.NDArray[np.float64], top_k: int | None = None, top_p: float | None = None) -> npt.NDArray[np.float64]:
    """The distribution of one value by the definition: one level after the other, the likeliest first."""
    order = sorted(range(len(p)), key=lambda level: (-p[level], level))[:top_k]
    total, nucleus = sum(p[level] for level in order), list[int]()
    for level in order:
        if top_p is not None and sum(p[other] for other in nucleus) / total >= top_p:
            break
        nucleus.append(level)
    q = np.zeros_like(p)
    q[nucleus] = p[nucleus] / p[nucleus].sum()
    return q


def probabilities(model: PixelModel, temperature: float = 1.0, **top: Any) -> npt.NDArray[np.float64]:
    """The probability of every image of a world, from the model's own table and :func:`kept`."""
    images = all_images(model.spec)
    with torch.no_grad():
        table = model.head.table(model.predict(images), temperature, images).movedim(2, -1).numpy()
    q = np.apply_along_axis(kept, -1, table, **top)  # [N, C, H, W, L]
    return np.take_along_axis(q, images.numpy()[..., None].astype(int), -1).reshape(len(images), -1).prod(1)


def params_of(p: list[float]) -> Tensor:
    return torch.tensor(p, dtype=torch.float64).log()[None, :, None, None]


P = [0.4, 0.1, 0.3, 0.2]


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({"top_k": 1}, [1, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 9}, P),
        ({"top_p": 0.1}, [1, 0, 0, 0]),  # the likeliest level is always kept
        ({"top_p": 0.65}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.75}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 0.95}, P),
        ({"top_k": 3, "top_p": 0.75}, [4 / 7, 0, 3 / 7, 0]),  # (4 + 3) / 9 of what top-k leaves
    ],
)
def test_levels_by_hand(top: dict[str, Any], expected: list[float]) -> None:
    head = likeliest(Categorical(ImageSpec(1, 1, 1, 4)), **{"top_k": None, "top_p": None} | top)
    table = head.table(params_of(P))[0, 0, :, 0, 0].numpy()
    np.testing.assert_allclose(table, expected, atol=1e-12)
    np.testing.assert_allclose(table, kept(np.array(P), **top), atol=1e-12)
    level = torch.arange(4, dtype=torch.uint8)[:, None, None, None]
    nats = head.nats(params_of(P).expand(4, -1, -1, -1), level).flatten().numpy()
    np.testing.assert_allclose(np.exp(-nats), expected, atol=1e-7)


def test_a_sum_of_p_exactly_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.tensor([0.5, 0.125, 0.25, 0.125], dtype=torch.float64)[None, None, :, None, None]
    monkeypatch.setattr(Categorical, "table", lambda *_: exact.clone())
    head = Likeliest(Categorical(ImageSpec(1, 1, 1, 4)), top_p=0.75)
    assert head.table(params_of(P)).flatten().tolist() == [2 / 3, 0, 1 / 3, 0]


def test_of_equal_levels_the_first_are_kept() -> None:
    head = Likeliest(Categorical(ImageSpec(1, 1, 1, 4)), top_k=2)
    assert head.table(params_of([0.25] * 4)).flatten().tolist() == [0.5, 0.5, 0, 0]
    assert head.table(params_of([0.2, 0.3, 0.2, 0.3])).flatten().tolist() == [0, 0.5, 0, 0.5]


def test_bits() -> None:
    head, logit = Bernoulli(ImageSpec(1, 1, 1, 2)), torch.full((1, 1, 1, 1), math.log(0.7 / 0.3))
    ones = {top_p: Likeliest(head, top_p=top_p).table(logit)[0, 0, 1].item() for top_p in (0.1, 0.69, 0.71)}
    assert ones == pytest.approx({0.1: 1, 0.69: 1, 0.71: 0.7}, rel=1e-6)
    assert Likeliest(head, top_k=1).table(-logit)[0, 0, 1].item() == 0


@pytest.mark.parametrize("noise", [0.0, 0.5, JUST_BELOW_1])
@pytest.mark.parametrize("head", [Categorical(ImageSpec(2, 1, 1, 9)), Logistics(ImageSpec(2, 1, 1, 9), 3)], ids=str)
def test_no_noise_leads_to_a_level_that_is_not_kept(head: Head, noise: float) -> None:
    params = 3 * torch.randn(400, head.outputs, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    top = Likeliest(head, top_k=4, top_p=0.9)
    drawn = top.draw(params, torch.full((400, 2, 1, 1), noise, dtype=torch.float64))
    table = top.table(params, x=drawn)
    assert (table > 0).sum(2).max() <= 4
    assert bool((table.gather(2, drawn[:, :, None].long()) > 0).all())
    if noise == JUST_BELOW_1:  # the last level that is kept
        assert torch.equal(drawn.long(), 8 - (table > 0).flip(2).int().argmax(2))
    if noise == 0:
        assert torch.equal(drawn.long(), (table > 0).int().argmax(2))


@pytest.mark.parametrize("method", ["fast", "plain"])
@pytest.mark.parametrize("top", TOPS, ids=str)
@pytest.mark.parametrize("name", WORLDS)
def test_images_follow_the_restricted_probabilities(name: str, top: dict[str, Any], method: Method) -> None:
    model = WORLDS[name].model(2)
    expected = probabilities(model, **top)
    assert expected.sum() == pytest.approx(1)
    whole = probabilities(model, top.get("temperature", 1.0))
    assert name == "Bernoulli" or (np.abs(expected - whole).sum() > 0.1 and (expected == 0).any())
    if name == "Bernoulli" and "top_k" in top and "top_p" not in top:
        np.testing.assert_allclose(expected, whole)  # both levels are kept
    check_draws(model.sample(3000, batch=3000, method=method, **top), expected, model.spec)


@pytest.mark.parametrize("name", WORLDS)
def test_the_plain_loop_draws_the_same_bits(name: str) -> None:
    model = WORLDS[name].on(ImageSpec(WORLDS[name].image.channels, 4, 3, WORLDS[name].image.levels)).model(1)
    for top in TOPS:
        images = check_fast_is_plain(model, 4, loop=True, seed=3, **top)
        assert torch.equal(model.sample(3, seed=3, first=1, batch=2, precision="fp64", **top), images[1:])


def test_known_pixels_are_kept() -> None:
    model = WORLDS["ordered color"].on(ImageSpec(3, 4, 3, 4)).model(1)
    given = torch.randint(0, 4, (1, *model.spec.shape), generator=torch.Generator().manual_seed(0)).byte()
    mask = torch.rand(1, *model.spec.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    drawn = check_fast_is_plain(model, 3, loop=True, given=given, mask=mask, top_k=1)
    assert torch.equal(drawn[:, mask[0]], given[:, mask[0]].expand(3, -1))
    assert torch.equal(drawn, model.sample(3, seed=9, given=given, mask=mask, top_k=1, precision="fp64"))  # no noise


def test_the_likeliest_level_alone_is_that_of_the_table() -> None:
    model = WORLDS["logistics"].on(ImageSpec(3, 3, 3, 7)).model(1)
    images = model.sample(2, top_k=1)
    with torch.no_grad():
        table = model.head.table(model.predict(images), 1.0, images)
    assert torch.equal(table.argmax(2), images.long())


def test_ensembles_of_orders_draw_the_likeliest_too() -> None:
    model = model_of(MADEConfig(hidden=3, orders=2), ORDERED, ImageSpec(1, 3, 3, 4))
    images = check_fast_is_plain(model, 6, top_k=1)
    assert not torch.equal(images, model.sample(6, precision="fp64"))
    assert torch.equal(images[:1], model.sample(1, top_p=1e-9, precision="fp64"))


def test_all_levels_are_the_models_own_images() -> None:
    model = WORLDS["levels"].model(1)
    assert likeliest(model.head, None, None) is model.head
    assert likeliest(model.head, None, 1.0) is model.head
    assert torch.equal(model.sample(50, top_p=1.0), model.sample(50))
    assert torch.equal(model.sample(50, top_k=5), model.sample(50))
    check_world_sums_to_one(model)  # likelihoods are those of the model


@pytest.mark.parametrize("top_k", [0, -1, 1.5, True, "2", math.nan])
def test_a_number_of_levels_that_is_none(top_k: Any) -> None:
    with pytest.raises(UsageError, match="top_k: must be a whole number of levels, 1 or more"):
        WORLDS["levels"].model().sample(1, top_k=top_k)


@pytest.mark.parametrize("top_p", [0, -0.1, 1.01, math.nan, math.inf, True, "0.5"])
def test_a_probability_that_is_none(top_p: Any) -> None:
    with pytest.raises(UsageError, match="top_p: must be a probability above 0, at most 1"):
        WORLDS["levels"].model().sample(1, top_p=top_p)


# The command line


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def test_the_options_of_sample(run: Command) -> None:
    model = flat(ImageSpec(1, 4, 4, 17))
    torch.manual_seed(0)
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    save_run(model, Path("runs/lively"))
    for i, (options, top) in enumerate([("--top-k 3", {"top_k": 3}), ("--top-p 0.5 --top-k 4", TOP_BOTH)]):
        said = run("sample", "lively", "-n", 5, "--seed", 2, "--npy", f"{i}.npy", *options.split())
        assert said.code == 0, said.err
        assert np.array_equal(np.load(f"{i}.npy"), model.sample(5, seed=2, **top).numpy())
    assert not np.array_equal(np.load("0.npy"), model.sample(5, seed=2).numpy())


TOP_BOTH: dict[str, Any] = {"top_k": 4, "top_p": 0.5}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--top-k 0", "--top-k"),
        ("--top-k 2.5", "--top-k"),
        ("--top-p 0", "top_p: must be a probability above 0, at most 1, not 0.0"),
        ("--top-p 1.5", "top_p: must be a probability"),
        ("--top-p nan", "--top-p"),
        ("--keep-columns 2", "--keep-columns: pixels are drawn row by row, each given those before it"),
    ],
)
def test_options_that_are_refused(options: str, said: str, run: Command) -> None:
    save_run(flat(ImageSpec(1, 4, 4, 17)), Path("runs/flat"))
    code, out, err = run("sample", "flat", *options.split())
    assert (code, out) == (2, "")
    assert said in err
    assert not list(Path.cwd().glob("*.png"))
