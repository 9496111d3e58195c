"""``pixelloom attention``: what a place of a picture looks at, in a generator and in its discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.common import loaded, picture
from pixelloom.cli.conditioning import check_class
from pixelloom.cli.console import say, say_json, say_table
from pixelloom.cli.options import Device, Flag
from pixelloom.core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pixelloom.core.types import ImageSpec, Levels
    from pixelloom.models.gan import GANModel, Maps
    from pixelloom.models.inputs import LabelsLike
    from pixelloom.viz.attention_maps import Place, Strip

_GENERATED, _SPLITS = "generated", ("train", "val", "test")
_SIDES = ("generator", "discriminator")
_CENTER, _GRID = "center", "grid"
_ROWS = 3  # and columns of the places that a grid asks
_MOST = 16  # pictures side by side that a person can tell apart
_NOTES = (
    "The framed place looks at what is bright: weights that sum to 1, a square each (nearest neighbor, no smoothing).",
    "The colors of a row go from 0 to its largest weight, or to four times a uniform map's if that is more.",
    "gamma: the factor by which what was seen is added; at 0 it is not.",
    "entropy: mean over all places of these pictures, as a share of a uniform map's; at 1 all look everywhere alike.",
)


@Parameter(name="*")
@dataclass(frozen=True)
class MapOptions:
    """Whose maps, of which pictures and pixels, and where they go."""

    number: Annotated[int | None, Parameter(name=("--number", "-n"))] = None
    """How many pictures, 5; with --query grid 1."""
    query: Annotated[str, Parameter(allow_leading_hyphen=True)] = _CENTER
    """The pixel that looks: center, X,Y (column and row, from 0), or grid for nine of each picture."""
    layer: str | None = None
    """Only the layer of this name."""
    of: Literal["generator", "discriminator", "both"] = "both"
    """Whose maps."""
    on: str = _GENERATED
    """What the discriminator looks at: generated, pictures of the split train, val or test of its data, or a file."""
    class_: Annotated[int | None, Parameter(name="--class")] = None
    """For a model that was trained with --classes: draw images of this class; with a file of --on, its class."""
    seed: int = 0
    """Chooses the noise of the pictures, as in `pixelloom sample`."""
    first: int = 0
    """Number of the first of them."""
    out: Path = Path("maps.png")
    """A PNG."""
    scale: int | None = None
    """Its pixels a pixel of a picture."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    force: Flag = False
    """Replace the PNG if it is there."""
    json: Flag = False
    """One JSON object with the figures of each layer."""

    @property
    def pictures(self) -> int:
        """How many."""
        return (1 if self.query == _GRID else 5) if self.number is None else self.number


NO_MAPS = MapOptions()


@dataclass(frozen=True)
class _Layer:
    """What one layer looked at: weights [n, H, W, h, w], its places H x W and keys h x w; and its figures."""

    of: str
    name: str
    weights: Tensor
    gamma: float
    entropy: float

    @property
    def places(self) -> Place:
        """Rows and columns of those that look."""
        return self.weights.shape[1], self.weights.shape[2]

    @property
    def keys(self) -> Place:
        """Rows and columns of what is looked at."""
        return self.weights.shape[3], self.weights.shape[4]


@dataclass(frozen=True)
class _Part:
    """Pictures, uint8 [n, C, H, W], and the layers that looked at them."""

    shown: str
    images: Levels
    layers: Sequence[_Layer]


def attention(model: str, /, *, options: MapOptions = NO_MAPS) -> None:
    """Draw what a pixel of a picture looks at: pictures above, and below them a map for each layer of attention.

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        options: Whose maps, of what, and where to.
    """
    from pixelloom.models.registry import require
    from pixelloom.viz import attention_maps
    from pixelloom.viz.grid import save_png

    _check(options)
    found = require(loaded(model, options.device), "attention", "pixelloom attention")
    check_class(options.class_, found.description.classes)
    queries = _queries(options.query, found.spec)
    parts = _parts(found, options)
    outputs.probe(options.out.parent)
    sheet = attention_maps.sheet(list(_strips(parts, queries)), found.spec.levels, _NOTES, options.scale)
    with outputs.writing(options.out):
        save_png(sheet, options.out)
    rows = [_row(part, layer) for part in parts for layer in part.layers]
    if options.json:
        asked = [{"column": x, "row": y} for y, x in queries]
        say_json({"model": model, "seed": options.seed, "queries": asked, "layers": rows, "picture": str(options.out)})
    else:
        say_table(list(rows[0]), [[_word(value) for value in row.values()] for row in rows])
        say(str(options.out))


def _check(options: MapOptions) -> None:
    """What can be found wrong before the model is loaded."""
    from pixelloom.models.inputs import at_least

    at_least("-n", options.pictures, 1)
    at_least("--seed", options.seed, 0)
    at_least("--first", options.first, 0)
    at_least("--scale", 1 if options.scale is None else options.scale, 1)
    if options.pictures > _MOST:
        raise UsageError(f"-n: {_MOST} pictures at most, not {options.pictures}; go on from there with --first")
    if options.on != _GENERATED and options.of == "generator":
        raise UsageError("--on: a generator looks at what it makes; pictures are for --of discriminator or both")
    if options.on not in (_GENERATED, *_SPLITS) and Path(options.on).resolve() == options.out.resolve():
        raise UsageError(f"{options.out}: is the picture that was given; write to another file")
    if options.on not in (_GENERATED, *_SPLITS) and not Path(options.on).exists():
        words = (_GENERATED, *_SPLITS)
        near = did_you_mean(options.on, words)
        raise UsageError(f"--on {options.on}: no such file.{near} Name a picture, or one of {', '.join(words)}")
    outputs.check_file(options.out, options.force)


def _queries(text: str, spec: ImageSpec) -> list[Place]:
    """Rows and columns of the pixels that look."""
    from pixelloom.viz import attention_maps

    if text in (_CENTER, _GRID):
        return attention_maps.points((spec.height, spec.width), 1 if text == _CENTER else _ROWS)
    words = [word.strip() for word in text.split(",")]
    if len(words) == 2 and all(word.isdecimal() for word in words):
        x, y = map(int, words)
        if x < spec.width and y < spec.height:
            return [(y, x)]
    known = f"columns 0 to {spec.width - 1} and rows 0 to {spec.height - 1}"
    raise UsageError(f"--query: {_CENTER}, {_GRID}, or X,Y with {known}, not {text!r}")


def _parts(model: GANModel, options: MapOptions) -> list[_Part]:
    """Pictures and what looked at them: the generator while it made them, the discriminator at them or at others."""
    from pixelloom.layers.self_attention import attention_layers
    from pixelloom.sampling.latent_noise import labels_of

    n, classes, told = options.pictures, model.description.classes, options.class_
    if not attention_layers(model.network):
        network = model.description.network
        raise UsageError(f"{network} has no attention to draw; a network that has: pixelloom train sagan")
    if options.of != "generator" and model.discriminator is None:
        raise UsageError(f"--of {options.of}: this model was kept without its discriminator; draw --of generator")
    labels: LabelsLike = labels_of(classes, options.seed, options.first, n) if classes and told is None else told
    images, maps = model.attend(model.latents(n, seed=options.seed, first=options.first), labels)
    layers = _layers("generator", model.network, maps) if options.of != "discriminator" else []
    parts = [_Part(_GENERATED, images.numpy(), layers)]
    if options.of != "generator":
        assert model.discriminator is not None
        if options.on != _GENERATED:
            images, labels = _real(model, options)
            parts.append(_Part(options.on, images.numpy(), []))
        found = _layers("discriminator", model.discriminator, model.attend_to(images, labels)[1])
        parts[-1] = replace(parts[-1], layers=[*parts[-1].layers, *found])
    return parts if options.layer is None else _named(parts, options.layer)


def _layers(of: str, network: nn.Module, maps: Maps) -> list[_Layer]:
    from pixelloom.layers.self_attention import attention_stats

    figures = attention_stats(network, maps)
    return [_Layer(of, name, weights.cpu(), *figures[name]) for name, weights in maps]


def _named(parts: Sequence[_Part], name: str) -> list[_Part]:
    """The parts, with the layer of that name only."""
    left = [replace(part, layers=[layer for layer in part.layers if layer.name == name]) for part in parts]
    if not any(part.layers for part in left):
        known = dict.fromkeys(layer.name for part in parts for layer in part.layers)
        raise UsageError(f"--layer: no layer is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    return left


def _real(model: GANModel, options: MapOptions) -> tuple[Tensor, LabelsLike]:
    """Pictures that are not the generator's, and their classes."""
    from pixelloom.runs.evaluate import data_for, examples

    classes = model.description.classes
    if options.on in _SPLITS:
        images, labels = examples(model.spec, data_for(model), options.on, options.pictures)
        return images, labels if classes else None
    if classes and options.class_ is None:
        raise UsageError(f"--class: of which class is {options.on}? The discriminator is told")
    return picture("--on", Path(options.on), model.spec, fitted=True), options.class_


def _strips(parts: Sequence[_Part], queries: Sequence[Place]) -> Iterator[Strip]:
    """Rows of the sheet: a column for each picture; of several queries a block of rows for each, a column a query."""
    import torch

    from pixelloom.viz.attention_maps import Strip, place

    for part in parts:
        if not part.layers:
            continue
        n, size = len(part.images), (part.images.shape[2], part.images.shape[3])
        every = [(i, query) for i in range(n) for query in queries]
        wide = n if len(queries) == 1 else len(queries)
        for block in (every[start : start + wide] for start in range(0, len(every), wide)):
            images, asked = part.images[[i for i, _ in block]], [query for _, query in block]
            y, x = queries[0]
            where = f"column {x}, row {y}" if len(queries) == 1 else f"picture {block[0][0] + 1} of {n}"
            yield Strip([part.shown, where], images, asked)
            for layer in part.layers:
                weights = [layer.weights[i, *place(query, size, layer.places)] for i, query in block]
                caption = [
                    f"{layer.of} {layer.name}",
                    _size(layer.places) + ("" if layer.keys == layer.places else f" on {_size(layer.keys)}"),
                    f"gamma {layer.gamma:z.3f}",
                    f"entropy {layer.entropy:.3f}",
                ]
                yield Strip(caption, images, asked, torch.stack(weights).numpy(), layer.places)


def _row(part: _Part, layer: _Layer) -> dict[str, Any]:
    return {
        "of": layer.of,
        "layer": layer.name,
        "on": part.shown,
        "places": layer.places,
        "keys": layer.keys,
        "gamma": layer.gamma,
        "entropy": layer.entropy,
        "pictures": len(part.images),
    }


def _word(value: object) -> str:
    return _size(value) if isinstance(value, tuple) else f"{value:z.3f}" if isinstance(value, float) else str(value)


def _size(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
