"""Configurations: recipes that survive a file, patches in their order, faults that name the field (FAULTS row 15)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pixelloom.core.errors import UsageError
from pixelloom.networks import GAN_NETWORKS, PIXEL_NETWORKS
from pixelloom.objectives.diffaugment import Policy
from pixelloom.runs.compose import compose, dump_yaml, fields_of, read_yaml
from pixelloom.runs.config import GANRun, PixelRun
from pixelloom.runs.families import config_of
from pixelloom.runs.recipes import RECIPES, recipe


def from_text(text: str | bytes, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "run.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_yaml(path)


def refusal(text: str | bytes, tmp_path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        compose(recipe("digits"), file=from_text(text, tmp_path))
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", [*RECIPES, *PIXEL_NETWORKS, *GAN_NETWORKS])
def test_a_recipe_survives_its_yaml(name: str, tmp_path: Path) -> None:
    run = recipe(name)
    read = from_text(dump_yaml(run), tmp_path)
    assert compose(PixelRun(), file=read) == run  # from nothing but the file: it is complete
    assert compose(run, file=read) == run
    assert isinstance(run.model, config_of(run.network).networks()[run.network][0])
    assert run.recipe == name


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [  # what makes each the network of its tutorial
        ("mnist-gray", "model.norm", "batch"),
        ("mnist-gray", "train.batch", 128),
        ("mnist-binary", "data.binarize", "threshold@0.33"),
        ("mnist-binary-7x7", "inputs", "standard"),
        ("mnist-binary-7x7", "model.block", "residual"),
        ("mnist-binary-7x7", "model.hidden", 64),
        ("mnist-binary-7x7", "optim.lr", 4e-3),
        ("mnist-binary-7x7", "optim.clip", 1e-2),
        ("colored-mnist", "model.channels", 120),
        ("colored-mnist", "model.hidden", 120),
        ("colored-mnist", "model.blocks", 7),
        ("colored-mnist", "inputs", "standard"),
        ("colored-mnist", "head.channels", "ordered"),
        ("rgb", "head.channels", "ordered"),
        ("digits", "model.block", "gated"),
        ("binarized-mnist", "data.source", "binarized-mnist"),
    ],
)
def test_recipes_are_what_they_say(name: str, field: str, value: object) -> None:
    found: Any = recipe(name).model_dump(mode="json")
    for part in field.split("."):
        found = found[part]
    assert found == value


def test_an_unknown_recipe_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'mnist-gry'. Did you mean 'mnist-gray'\? Known: .*pixelcnn"):
        recipe("mnist-gry")


def test_later_patches_win_and_leave_the_rest(tmp_path: Path) -> None:
    base = recipe("digits")
    file = from_text("model: {channels: 32, blocks: 3}\nsamples: 7\n", tmp_path)
    run = compose(base, file=file, overrides={"model.channels": "16", "optim.lr": "1e-3"})
    assert (run.model.channels, run.model.blocks, run.samples, run.optim.lr) == (16, 3, 7, 1e-3)
    changed = {"model": base.model.model_copy(update={"channels": 16, "blocks": 3}), "samples": 7}
    assert run == base.model_copy(update={**changed, "optim": base.optim.model_copy(update={"lr": 1e-3})})
    assert base == recipe("digits")  # untouched


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"model.head_kernels": "[3, 3]"}, "head_kernels", (3, 3)),
        ({"model.head_kernels": (1,)}, "head_kernels", (1,)),
        ({"model.bias": "false"}, "bias", False),
        ({"model.hidden": "null"}, "hidden", None),
        ({"model.dropout": "1e-1"}, "dropout", 0.1),  # YAML 1.1 reads this as text
    ],
)
def test_strings_are_read_as_yaml(given: dict[str, object], field: str, value: object) -> None:
    assert getattr(compose(recipe("digits"), overrides=given).model, field) == value


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("modl: {channels: 3}", ["modl", "Did you mean 'model'?", "validation_images"]),
        ("train: {bach: 3}", ["train.bach", "(given: 3)", "Did you mean 'batch'?", "accumulate"]),
        ("data: {levles: 3}", ["data.levles", "Did you mean 'levels'?"]),
        ("data: {levels: 999}", ["data.levels", "256", "(given: 999)"]),
        ("data: {levels: many}", ["data.levels", "whole number", "'many'"]),
        ("data: {binarize: sttic}", ["data.binarize", "none, static, dynamic", "'sttic'"]),
        ("data: {levels: 4, binarize: static}", ["data", "binarize=static", "levels is 4"]),
        ("data: {fit: stretch}", ["data.fit", "'crop', 'resize', 'pad', 'tiles' or 'error'"]),
        ("optim: {lr: -1}", ["optim.lr", "greater than 0", "(given: -1)"]),
        ("optim: {lr: .nan}", ["optim.lr", "nan"]),
        ("optim: {betas: [0.9]}", ["optim.betas"]),
        ("train: {batch: 30, accumulate: 7}", ["train", "batch=30", "accumulate=7"]),
        ("train: 5", ["train", "(given: 5)"]),
        ("samples: 1.5", ["samples", "(given: 1.5)"]),
        ("inputs: symetric", ["inputs", "'unit', 'symmetric', 'standard' or 'embedding'"]),
        ("network: pixelcn", ["network", "Did you mean 'pixelcnn'?"]),
        ("model: {kernel: 4}", ["kernel", "odd side such as 5"]),
        ("model: {channels: 0}", ["channels", "(given: 0)"]),
        ("model: {channels: 3, channels: 4}", ["run.yaml", "duplicate key 'channels'", "line 1"]),
        ("samples: 3\nmodel:\n  blocks: 1\nsamples: 4\n", ["duplicate key 'samples'", "line 4"]),
        ("- model", ["run.yaml", "holds no settings"]),
        ("", ["run.yaml", "holds no settings"]),
        ("64", ["run.yaml", "holds no settings"]),
        ("model: {channels: 3", ["run.yaml", "not valid YAML", "line 1"]),
        (b"\xff\xfe\x00", ["run.yaml", "not valid YAML"]),
        ("a: !!python/object/apply:os.system [true]", ["not valid YAML", "python/object"]),
    ],
)
def test_a_fault_names_the_field_and_what_is_allowed(text: str | bytes, parts: list[str], tmp_path: Path) -> None:
    message = refusal(text, tmp_path)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    message = refusal("data: {levels: 1}\ntrain: {batch: 0, seed: -3}\n", tmp_path)
    assert all(field in message for field in ("data.levels", "train.batch", "train.seed"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("model: {chanels: 3}", ["model.chanels", "Did you mean 'channels'?", "head_kernels"]),
        ("model: {channels: 0}", ["model.channels"]),
        ("model: {kernel: 4}", ["model.kernel"]),
    ],
)
def test_a_fault_of_the_network_has_its_whole_path(text: str, parts: list[str], tmp_path: Path) -> None:
    message = refusal(text, tmp_path)
    assert all(part in message for part in parts)


def test_a_key_that_cannot_be_one(tmp_path: Path) -> None:
    refusal("? [a, b]\n: 3\n", tmp_path)


@pytest.mark.parametrize("text", ["optim: {betas: [0.9, 2]}", "optim: {lr: .inf}"])
def test_figures_beyond_their_range(text: str, tmp_path: Path) -> None:
    refusal(text, tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("absent.yaml", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"--config {tmp_path / name}: cannot be read: {reason}"):
        read_yaml(tmp_path / name)


def test_an_override_below_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="samples"):
        compose(recipe("digits"), overrides={"samples": "3", "samples.x": "4"})


@pytest.mark.parametrize(
    ("path", "some"),
    [([], {"network", "model", "samples"}), (["model"], {"channels", "kernel"}), (["train"], {"batch", "minutes"})],
)
def test_fields_of_a_section(path: list[str], some: set[str]) -> None:
    known = fields_of("pixelcnn", path)
    assert some <= set(known)
    dumped: Any = recipe("digits").model_dump()
    for part in path:
        dumped = dumped[part]
    assert known == list(dumped)


@pytest.mark.parametrize("path", [["samples"], ["nowhere"], ["model", "channels"]])
def test_what_is_no_section_has_no_fields(path: list[str]) -> None:
    assert fields_of("pixelcnn", path) == []


def test_the_yaml_is_plain_and_whole() -> None:
    values = yaml.safe_load(dump_yaml(recipe("rgb")))
    assert list(values) == list(PixelRun.model_fields)
    assert values["model"]["channels"] == 64
    assert values["train"]["epochs"] == 20


def test_another_family_keeps_what_all_runs_have_and_nothing_else() -> None:
    """As in `pixelloom train --config FILE` with `network: sagan`, from the default run of the other family."""
    asked = {"network": "sagan", "loss": "hinge", "augment": {"cutout": 0.5}, "train": {"batch": 8}}
    run = compose(compose(recipe("digits"), overrides={"samples": 3}), file=asked)
    assert isinstance(run, GANRun)
    assert (run.samples, run.train.batch, run.data.source, run.loss) == (3, 8, "digits", "hinge")
    assert run.augment == Policy(cutout=0.5)
    assert run.model == GAN_NETWORKS["sagan"][0]()
    back = compose(run, overrides={"network": "pixelcnn"})
    assert isinstance(back, PixelRun)
    assert back.head == PixelRun().head


@pytest.mark.parametrize(
    ("network", "field", "words"),
    [
        ("sagan", "head.kind", "head: Extra inputs"),
        ("pixelcnn", "loss", "loss: Extra inputs"),
        ("sagan", "augment.cutuot", "Did you mean 'cutout'"),
        ("dcgan", "penalties.r3", "Known here: r1, r2, gradient, lazy_interval"),
    ],
)
def test_a_field_of_another_family_is_unknown(network: str, field: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        compose(recipe(network), overrides={field: "1"})


def test_configurations_and_their_options_do_not_wait_for_torch() -> None:
    program = (
        "import sys, pixelloom.runs.config, pixelloom.runs.families, pixelloom.cli; "
        "print(sorted({'torch', 'numpy', 'yaml', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
