"""The tutorials' networks of benchmarks/training_tutorials.py beside ours, with the same random weights in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import Head, make_head
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.self_attention import attention_layers
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import build_pair
from pixelloom.runs.compose import compose
from pixelloom.runs.config import GANRun, PixelRun
from pixelloom.runs.recipes import GAN_RECIPES, PIXEL_RUNS
from scripts import script

plain = script("training_tutorials")

Convolution = nn.Conv2d | nn.ConvTranspose2d
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, MaskedConv2d)

IMAGES = {  # neither square nor even, and less than the networks' reach in either direction
    "mnist-gray": ImageSpec(1, 11, 13, 256),
    "mnist-binary": ImageSpec(1, 11, 13, 2),
    "mnist-binary-7x7": ImageSpec(1, 11, 13, 2),
    "colored-mnist": ImageSpec(3, 11, 13, 4),
    "rgb": ImageSpec(3, 11, 13, 256),
}


@dataclass(frozen=True)
class Pair:
    """A tutorial's network and ours, and an input for both in model space."""

    theirs: nn.Module
    ours: nn.Module
    x: Tensor

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Theirs and ours."""
        return self.theirs(self.x), self.ours(self.x)

    def deviation(self) -> float:
        """Largest difference of outputs over the largest output."""
        theirs, ours = self.outputs()
        return relative(ours, theirs)


@dataclass(frozen=True)
class PixelPair(Pair):
    """The same, with what turns outputs into probabilities of the levels uint8 [B, C, H, W]."""

    head: Head
    levels: Tensor


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def pixel_run(name: str) -> PixelRun:
    """The recipe as its tutorial has it: channels of rgb are independent there."""
    run = PIXEL_RUNS[name]
    return compose(run, overrides={"head.channels": "independent"}) if name == "rgb" else run


def described(run: PixelRun, spec: ImageSpec, scaling: Scaling) -> PixelModel:
    """An untrained model of a run for other images than its own."""
    return PixelModel.build(
        PixelDescription(network=run.network, model=run.model, head=run.head, image=spec, scaling=scaling)
    )


def pixel_pair(name: str, run: PixelRun | None = None) -> PixelPair:
    """Both networks; ours may be of another run than the recipe's."""
    run, spec = run or pixel_run(name), IMAGES[name]
    generator = torch.Generator().manual_seed(0)
    theirs = randomized(plain.tutorial_pixel(name), generator)
    ours = described(run, spec, Scaling.symmetric()).network.double()
    copy(theirs, ours)
    levels = torch.randint(0, spec.levels, (2, *spec.shape), generator=generator).byte()
    x = 2 * levels.double() / (spec.levels - 1) - 1
    return PixelPair(theirs, ours, x, make_head(run.head, spec), levels)


def latent_pairs(name: str) -> tuple[Pair, Pair]:
    """G and D, for images of 64x64, where the networks are those of the tutorial."""
    run: GANRun = GAN_RECIPES[f"{name}-tutorial"]
    generator = torch.Generator().manual_seed(0)
    game = plain.TutorialGame(name == "sagan")
    z = torch.randn(2, run.model.latent, generator=generator, dtype=torch.float64)
    x = 2 * torch.rand(2, 1, 64, 64, generator=generator, dtype=torch.float64) - 1
    pairs, built = [], build_pair(name, run.model, ImageSpec(1, 64, 64, 256))
    for theirs, ours, given in zip((game.generator, game.discriminator), built, (z, x), strict=True):
        randomized(theirs, generator)
        copy(theirs, ours.double().eval())
        pairs.append(Pair(_Flat(theirs), ours, given))
    return pairs[0], pairs[1]


class _Flat(nn.Module):
    """A latent tutorial's network in our shapes: noise [B, n] for [B, n, 1, 1], logits [B] for [B, 1, 1, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x[:, :, None, None] if x.ndim == 2 else x)
        return out.flatten() if out.shape[1:] == (1, 1, 1) else out


@torch.no_grad()
def randomized(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """In float64 and eval mode, every parameter and running statistic drawn so that outputs keep their scale.

    Masked taps get weights too. Under spectral norm u and v follow the weights for some steps, without settling.
    """
    network.double()

    def normal(like: Tensor, deviation: float) -> Tensor:
        return deviation * torch.randn(like.shape, generator=generator, dtype=torch.float64)

    def around_one(like: Tensor) -> Tensor:
        return 0.5 + torch.rand(like.shape, generator=generator, dtype=torch.float64)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.copy_(around_one(module.weight))
            module.bias.copy_(normal(module.bias, 0.3))
            module.running_mean.copy_(normal(module.running_mean, 0.3))
            module.running_var.copy_(around_one(module.running_var))
        elif isinstance(module, Convolution):
            weight = getattr(module, "weight_orig", module.weight)
            weight.copy_(normal(weight, math.sqrt(2 / _read(module))))
            if module.bias is not None:
                module.bias.copy_(normal(module.bias, 0.3))
        elif hasattr(module, "gamma"):
            module.gamma.copy_(around_one(module.gamma))
    for block in attentions(network):
        for layer in (block.query, block.key):
            # A score is a sum over these features. Maps are to be neither uniform nor so sharp that softmax enlarges
            # the rounding of large scores.
            layer.weight.mul_(3 * layer.out_channels**-0.25)
    for module in network.modules():
        if hasattr(module, "weight_orig"):
            module.train()
            for _ in range(3):
                module(torch.zeros(1, module.in_channels, 4, 4, dtype=torch.float64))
    return network.eval()


def _read(layer: Convolution) -> float:
    """Inputs that an output is made of, on average."""
    seen = getattr(layer, "seen", None)
    if seen is not None:
        return float(seen.sum()) / layer.out_channels
    taps = math.prod(layer.kernel_size) / (math.prod(layer.stride) if isinstance(layer, nn.ConvTranspose2d) else 1)
    return layer.in_channels * taps


@torch.no_grad()
def copy(theirs: nn.Module, ours: nn.Module) -> None:
    """The weights of a tutorial's network into ours, layer by layer.

    Ours stores no rows below the center of a masked kernel. Two biases that change nothing it does not have: of keys,
    which moves all scores of a query alike, and before batch normalization, which the running mean takes in here.

    Raises:
        ValueError: if they differ in the number of layers or in the shape of one.
    """
    pairs = list(zip(_layers(theirs), _layers(ours), strict=True))
    for number, (a, b) in enumerate(pairs):
        if a.weight.shape[:2] != b.weight.shape[:2] or a.weight.shape[3:] != b.weight.shape[3:]:
            raise ValueError(f"layer {number}: {list(a.weight.shape)} is not {list(b.weight.shape)}")
    pending: Tensor | None = None  # a bias that the next running mean takes in
    for a, b in pairs:
        if isinstance(a, nn.BatchNorm2d):
            assert isinstance(b, nn.BatchNorm2d)
            b.load_state_dict(a.state_dict())
            if pending is not None:
                b.running_mean.sub_(pending)
                pending = None
            continue
        assert pending is None
        if hasattr(a, "weight_orig"):
            norm = b.parametrizations["weight"]
            norm.original.copy_(a.weight_orig)
            norm[0].u.copy_(a.weight_u)
            norm[0].v.copy_(a.weight_v)
        else:
            assert not hasattr(b, "parametrizations")
            b.weight.copy_(a.weight[:, :, : b.weight.shape[2]])
        if b.bias is not None:
            b.bias.copy_(a.bias)
        elif isinstance(a, nn.ConvTranspose2d):
            pending = a.bias
    for (_, block), attention in zip(attention_layers(ours), attentions(theirs), strict=True):
        block.gamma.copy_(attention.gamma.squeeze())


def _layers(network: nn.Module) -> list[nn.Module]:
    """Those with weights, in the order of their use: ours keeps attention apart from the layers between which it is."""
    inner = [child for block in attentions(network) for child in block.children()]
    found = [layer for layer in network.modules() if layer not in inner] + inner
    return [layer for layer in found if isinstance(layer, LAYERS)]


def attentions(network: nn.Module) -> list[nn.Module]:
    """Its attention blocks, in order."""
    return [module for module in network.modules() if hasattr(module, "gamma")]


def tutorial_maps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """What each attention block of a tutorial's network attends to, [B, positions, positions]."""
    maps: list[Tensor] = []
    hooks = [
        block.softmax.register_forward_hook(lambda _layer, _given, weights: maps.append(weights))
        for block in attentions(network)
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return maps
