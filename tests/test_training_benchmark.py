"""benchmarks/training.py: its results, and that the tutorials' steps compute what ours do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pixelloom.core.types import Batch
from pixelloom.runs.families import set_up
from pixelloom.runs.recipes import recipe
from scripts import BENCHMARKS, script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tutorials() -> ModuleType:
    return script("training_tutorials")


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return script("training")


def test_the_training_benchmark_prints_one_object_a_line(training: ModuleType) -> None:
    """Of one network, since each variant is a process that imports torch, which takes long on a busy machine."""
    few = ["--json", "--batch", "2", "--repeats", "1", "--network", "mnist-binary"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "training.py", *few],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["network"], row["precision"]) for row in rows] == [("mnist-binary", p) for p in training.precisions()]
    for row in rows:
        assert (row["batch"], row["repeats"], row["clock"]) == (2, 1, "wall")
        assert row["ours_images_per_s"] > 0
        assert row["ratio"] == pytest.approx(row["ours_images_per_s"] / row["baseline_images_per_s"], rel=0.01)


@pytest.mark.parametrize(("options", "cpu_time"), [([], False), (["--cpu-time"], True)])
def test_every_network_is_measured_in_the_tutorials_batches(
    options: list[str],
    cpu_time: bool,
    training: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def noted(*asked: object) -> list[dict[str, object]]:
        return [{"asked": asked, "ours_images_per_s": 2, "baseline_images_per_s": 1, "ratio": 2, "precision": "fp32"}]

    monkeypatch.setattr(training, "measure", noted)
    monkeypatch.setattr(sys, "argv", ["training.py", "--json", *options])
    training.main()
    assert [json.loads(line)["asked"] for line in capsys.readouterr().out.splitlines()] == [
        [name, batch, 5, cpu_time]
        for name, batch in (("mnist-gray", 128), ("mnist-binary", 128), ("dcgan", 64), ("sagan", 64))
    ]


@pytest.mark.parametrize("name", ["mnist-gray", "mnist-binary", "dcgan", "sagan"])
def test_each_variant_answers_each_request_when_its_step_is_done(
    name: str, training: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, with a clock that counts the optimizers' steps in place of seconds."""
    steps = 0

    def counted(*_: object) -> None:
        nonlocal steps
        steps += 1

    class Pipe:
        """Requests three steps."""

        def __init__(self) -> None:
            self.asked, self.answers = 0, []

        def recv(self) -> bool:
            if self.asked == 3:
                raise EOFError
            self.asked += 1
            return True

        def send(self, answer: float) -> None:
            assert len(self.answers) == self.asked - 1
            self.answers.append(answer)

    monkeypatch.setattr(training.time, "process_time", lambda: steps)
    handle = register_optimizer_step_post_hook(counted)
    try:
        for variant in ("baseline", *training.precisions()):
            pipe = Pipe()
            training.serve(variant, name, 2, True, pipe)
            each = 2 if name in ("dcgan", "sagan") else 1
            assert pipe.answers == [each] * 3, variant
    finally:
        handle.remove()


def test_without_bf16_it_is_not_measured(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False, "amx_bf16": False})
    assert training.precisions() == ("fp32",)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert training.precisions() == ("fp32", "bf16")


@pytest.mark.parametrize("name", ["mnist-gray", "mnist-binary"])
def test_the_tutorials_network_has_the_same_weights_as_ours(name: str, tutorials: ModuleType) -> None:
    theirs: torch.nn.Module = {"mnist-gray": tutorials.tutorial_gray, "mnist-binary": tutorials.tutorial_binary}[name]()
    ours = script("gpu/measure").model_of(name, "cpu").network

    def used(network: torch.nn.Module) -> int:
        """Trained values that no mask removes."""
        total = 0
        for module in network.modules():
            mask = getattr(module, "seen", getattr(module, "mask", None))
            for name, parameter in module.named_parameters(recurse=False):
                total += int(mask.sum()) if name == "weight" and mask is not None else parameter.numel()
        return total

    assert used(theirs) == used(ours)


WITH_WEIGHTS = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.BatchNorm2d)


def layers(network: torch.nn.Module) -> list[torch.nn.Module]:
    """Those with weights, in order, but for attention's, which come last."""
    inner = [child for block in network.modules() if hasattr(block, "gamma") for child in block.children()]
    found = [layer for layer in network.modules() if layer not in inner] + inner
    return [layer for layer in found if isinstance(layer, WITH_WEIGHTS)]


@torch.no_grad()
def give(theirs: torch.nn.Module, ours: torch.nn.Module) -> None:
    """Our weights to the tutorial's network; a bias that ours lacks is zero. Attention is made to act in both."""
    for a, b in zip(layers(ours), layers(theirs), strict=True):
        if hasattr(b, "weight_orig"):
            norm = a.parametrizations.weight
            b.weight_orig.copy_(norm.original)
            b.weight_u.copy_(norm[0].u)
            b.weight_v.copy_(norm[0].v)
        else:
            b.weight.copy_(a.weight)
        b.bias.copy_(torch.zeros_like(b.bias) if a.bias is None else a.bias)
    for network in (ours, theirs):
        for block in network.modules():
            if hasattr(block, "gamma"):
                block.gamma.fill_(0.5)


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    """Of the trained weights of each layer, in order."""
    found = []
    for layer in layers(network):
        weights = getattr(layer, "parametrizations", None)
        weight = getattr(layer, "weight_orig", layer.weight) if weights is None else weights.weight.original
        found.append(weight.grad)
    return found


@pytest.mark.parametrize("name", ["dcgan", "sagan"])
def test_the_tutorials_game_is_ours(name: str, tutorials: ModuleType, training: ModuleType) -> None:
    """In both steps the same loss and gradients from the same weights, images and noise."""
    levels = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)
    config = recipe(f"{name}-tutorial")
    objective = set_up(config, training.data(name, levels)).objective()
    game = tutorials.TutorialGame(name == "sagan")
    for part, network in (("G", game.generator), ("D", game.discriminator)):
        give(network, objective.parts[part].train())
    x = levels.float() / 127.5 - 1
    for phase, network, step in zip(
        objective.phases, (game.discriminator, game.generator), (lambda z: game.d_loss(x, z), game.g_loss), strict=True
    ):
        torch.manual_seed(3)
        ours, _ = phase.loss(Batch(levels, None))
        torch.manual_seed(3)
        theirs = step(torch.randn(4, tutorials.LATENT, 1, 1))
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
        phase.module.zero_grad()
        network.zero_grad()
        ours.backward()
        theirs.backward()
        for a, b in zip(gradients(phase.module), gradients(network), strict=True):
            assert a.abs().max() > 1e-6
            assert (a - b).abs().max() < 1e-3 * a.abs().max()


def test_the_tutorials_step_of_d_reaches_g(tutorials: ModuleType) -> None:
    """What ours leaves out: without it the comparison would be with less than the tutorials do."""
    game = tutorials.TutorialGame(sagan=False)
    x, z = torch.zeros(2, 1, 64, 64), torch.randn(2, tutorials.LATENT, 1, 1)
    game.d_loss(x, z).backward()
    assert all(parameter.grad.any() for parameter in game.generator[0].parameters() if parameter.ndim > 1)
    game.discriminator.zero_grad()
    game.g_loss(z).backward()
    assert all(parameter.grad is not None for parameter in game.discriminator.parameters())


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten.convolution_backward.default", "products"),
        ("aten.mkldnn_convolution.default", "products"),
        ("aten.baddbmm.default", "products"),
        ("aten.sigmoid_backward.grad_input", "activations"),
        ("aten._softmax.default", "activations"),
        ("aten._to_copy.default", "copies"),
        ("aten.constant_pad_nd.default", "copies"),
        ("aten.add.Tensor", "other elementwise"),
    ],
)
def test_kinds_of_operations(operation: str, kind: str) -> None:
    assert script("training_steps").kind_of(operation) == kind
