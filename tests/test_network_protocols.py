"""Networks follow the calling conventions of their protocols, and the families do not import each other."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch import nn

from gan_toys import PAIRS, pair
from pixelloom import networks
from pixelloom.core.types import ImageSpec
from pixelloom.networks import GAN_NETWORKS, PIXEL_NETWORKS, build_network, takes_condition
from pixelloom.networks.protocols import Discriminator, Generator, PixelNetwork

FOLDER = Path(networks.__file__).parent
SPEC = ImageSpec(1, 4, 4, 2)


def parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    return {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}


def check_arguments(function: Callable[..., object], stated: Callable[..., object], without: str = "") -> None:
    """Names, order, kinds, defaults and types agree; ``config`` is of any type, and further arguments have defaults."""
    wanted = {name: p for name, p in parameters(stated).items() if name != without}
    found = parameters(function)
    assert [name for name in found if name in wanted] == list(wanted), function
    for name, parameter in found.items():
        if name not in wanted:
            assert name != without, function
            assert parameter.default is not parameter.empty, (function, name)
            assert parameter.kind is parameter.KEYWORD_ONLY, (function, name)
            continue
        assert (parameter.kind, parameter.default) == (wanted[name].kind, wanted[name].default), (function, name)
        assert name == "config" or parameter.annotation == wanted[name].annotation, (function, name)


def check_convention(constructor: Callable[..., nn.Module], network: nn.Module, protocol: type, without: str) -> None:
    check_arguments(constructor, protocol.__init__, without)
    check_arguments(network.forward, protocol.forward, without)


@pytest.mark.parametrize("name", PIXEL_NETWORKS)
def test_pixel_networks_follow_their_protocol(name: str) -> None:
    config, constructor = PIXEL_NETWORKS[name]
    network = build_network(name, config(), SPEC, outputs=1, groups=1)
    check_convention(constructor, network, PixelNetwork, "" if takes_condition(name) else "condition")


def test_a_network_of_embedded_levels_follows_the_protocol_too() -> None:
    config, _ = PIXEL_NETWORKS["pixelcnn"]
    network = build_network("pixelcnn", config(), SPEC, outputs=1, groups=1, embedding=2)
    check_arguments(network.forward, PixelNetwork.forward)


@pytest.mark.parametrize("name", GAN_NETWORKS)
def test_gans_follow_their_protocols(name: str) -> None:
    assert name in PAIRS
    _, *constructors = GAN_NETWORKS[name]
    generator, discriminator = pair(name)
    assert generator.latent == PAIRS[name][1].latent
    check_convention(constructors[0], generator, Generator, "")
    check_convention(constructors[1], discriminator, Discriminator, "")


def other(config: object, spec: ImageSpec, *, outputs: int, groups: int, classes: int = 1) -> nn.Module: ...
def positional(config: object, spec: ImageSpec, outputs: int, groups: int, classes: int = 0) -> nn.Module: ...
def fewer(config: object, spec: ImageSpec, *, outputs: int, groups: int) -> nn.Module: ...
def more(config: object, spec: ImageSpec, width: int, *, outputs: int, groups: int, classes: int = 0) -> nn.Module: ...


@pytest.mark.parametrize("constructor", [other, positional, fewer, more])
def test_another_convention_is_noticed(constructor: Callable[..., nn.Module]) -> None:
    with pytest.raises(AssertionError):
        check_arguments(constructor, PixelNetwork.__init__, "condition")


# A GAN file imports no pixel network, and a pixel network no GAN


def crossing_imports(folder: Path) -> Iterator[str]:
    """``file: module`` for every import of one family's files by the other's."""
    for family, foreign in (("gan", "pixel"), ("pixel", "gan")):
        for path in sorted((folder / family).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    module = node.module or ""
                    modules = [f"{module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                else:
                    continue
                # One relative to the package, such as ``from ..pixel import nade``, starts with the family's name.
                found = [f".{module}." for module in modules if f".{foreign}." in f".{module}."]
                yield from (f"{family}/{path.name}: {module.strip('.')}" for module in found)


def test_families_do_not_import_each_other() -> None:
    assert list(crossing_imports(FOLDER)) == []
    assert all(len(list((FOLDER / family).glob("*.py"))) > 4 for family in ("gan", "pixel"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gan/dcgan.py", "from pixelloom.networks.pixel.pixelcnn import ClassBias"),
        ("gan/dcgan.py", "from pixelloom.networks import pixel"),
        ("gan/dcgan.py", "def f():\n    import pixelloom.networks.pixel.nade as nade"),
        ("pixel/made.py", "from ..gan import dcgan"),
        ("pixel/made.py", "from ..gan.dcgan import normal"),
    ],
)
def test_an_import_across_families_is_found(tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(text)
    assert len(list(crossing_imports(tmp_path))) == 1
    (tmp_path / path).write_text("from pixelloom.networks.gan_pixel import x\nfrom pixelloom.layers import reads")
    assert list(crossing_imports(tmp_path)) == []
