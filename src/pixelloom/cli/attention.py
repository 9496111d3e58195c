"""``pixelloom attention``: attention maps of a GAN's generator and discriminator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, image_of, loaded, position_of
from pixelloom.cli.conditioning import class_of
from pixelloom.cli.console import say, say_json, say_table
from pixelloom.cli.options import ClassName, Device, Flag, Index, OptionalCount, OptionalNumber
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
_ROWS = 3  # and columns of the query positions of a grid
_MOST = 16  # images side by side that a person can tell apart
_NOTES = (
    "Attention weights of the framed query position, one square per key; they sum to 1 (no smoothing).",
    "The colors of a row go from 0 to its largest weight, or to four times that of a uniform map if this is more.",
    "gamma: factor of the attention output in the residual sum; 0 turns the layer off.",
    "entropy: mean over the query positions of these images, relative to a uniform map; 1 is uniform.",
)


@Parameter(name="*")
@dataclass(frozen=True)
class MapOptions:
    """Images, query positions, layers and output of attention maps."""

    number: OptionalNumber = None
    """Number of images; default: 5, or 1 with --query grid."""
    query: Annotated[str, Parameter(allow_leading_hyphen=True)] = _CENTER
    """Query position: ROW,COLUMN from 0, center, or grid for nine positions of each image."""
    layer: str | None = None
    """Show this layer only."""
    of: Literal["generator", "discriminator", "both"] = "both"
    """Network whose attention maps are shown."""
    on: str = _GENERATED
    """Images for the discriminator: generated, a split (train, val, test) of the training data, or an image file."""
    class_: ClassName = None
    """Class of the images, by name or number; with a file in --on, the class of the file."""
    seed: Index = 0
    """Seed of the images, as in `pixelloom sample`."""
    first: Index = 0
    """Index of the first image."""
    out: Path | None = None
    """PNG to write; default: maps.png, or maps-2.png and so on if it exists."""
    scale: OptionalCount = None
    """PNG pixels per image pixel."""
    device: Device = "auto"
    """auto: cuda if available."""
    force: Flag = False
    """Overwrite an existing PNG."""
    json: Flag = False
    """Print one JSON object with gamma and entropy of each layer."""

    @property
    def images(self) -> int:
        """Number of images."""
        return (1 if self.query == _GRID else 5) if self.number is None else self.number


NO_MAPS = MapOptions()


@dataclass(frozen=True)
class _Layer:
    """Attention weights [n, H, W, h, w] of a layer, from H x W queries to h x w keys, with its statistics."""

    of: str
    name: str
    weights: Tensor
    gamma: float
    entropy: float

    @property
    def places(self) -> Place:
        """Rows and columns of the queries."""
        return self.weights.shape[1], self.weights.shape[2]

    @property
    def keys(self) -> Place:
        """Rows and columns of the keys."""
        return self.weights.shape[3], self.weights.shape[4]


@dataclass(frozen=True)
class _Part:
    """Images, uint8 [n, C, H, W], and the layers with attention maps of them."""

    shown: str
    images: Levels
    layers: Sequence[_Layer]


def attention(model: str, /, *, options: MapOptions = NO_MAPS) -> None:
    """Plot attention maps of a GAN: images in the first row, and one row of maps for each attention layer.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        options: Images, query positions, layers and output.
    """
    check_model(model)
    from pixelloom.models.registry import require
    from pixelloom.viz import attention_maps
    from pixelloom.viz.grid import save_png

    if options.out is None:
        options = replace(options, out=outputs.free(Path("maps.png"), force=options.force))
    _check(options)
    found = require(loaded(model, options.device), "attention", "pixelloom attention")
    queries = _queries(options.query, found.spec)
    parts = _parts(found, options)
    outputs.probe(_out(options).parent)
    sheet = attention_maps.sheet(list(_strips(parts, queries)), found.spec.levels, _NOTES, options.scale)
    with outputs.writing(_out(options)):
        save_png(sheet, _out(options))
    rows = [_row(part, layer) for part in parts for layer in part.layers]
    if options.json:
        asked = [{"row": y, "column": x} for y, x in queries]
        say_json({"model": model, "seed": options.seed, "queries": asked, "layers": rows, "image": str(options.out)})
    else:
        say_table(list(rows[0]), [[_word(value) for value in row.values()] for row in rows])
        say(str(options.out))


def _check(options: MapOptions) -> None:
    """Checks that need no model."""
    if options.images > _MOST:
        raise UsageError(f"-n: at most {_MOST} images, not {options.images}; show further ones with --first")
    if options.on != _GENERATED and options.of == "generator":
        raise UsageError("--on: needs --of discriminator or both; a generator attends to its own features")
    if options.on not in (_GENERATED, *_SPLITS) and Path(options.on).resolve() == _out(options).resolve():
        raise UsageError(f"{options.out}: is the image of --on; write to another file")
    if options.on not in (_GENERATED, *_SPLITS) and not Path(options.on).exists():
        words = (_GENERATED, *_SPLITS)
        near = did_you_mean(options.on, words)
        raise UsageError(f"--on {options.on}: no such file.{near} Name an image file, or one of {', '.join(words)}")
    outputs.check_image(_out(options), options.force)


def _out(options: MapOptions) -> Path:
    """The file to write; :func:`attention` has set a default."""
    assert options.out is not None
    return options.out


def _queries(text: str, spec: ImageSpec) -> list[Place]:
    """Rows and columns of the query positions."""
    from pixelloom.viz import attention_maps

    if text in (_CENTER, _GRID):
        return attention_maps.points((spec.height, spec.width), 1 if text == _CENTER else _ROWS)
    return [position_of(text, spec, "--query", (_CENTER, _GRID))]


def _parts(model: GANModel, options: MapOptions) -> list[_Part]:
    """Images and attention layers: of the generator on its images, of the discriminator on these or on real ones."""
    from pixelloom.layers.self_attention import attention_layers
    from pixelloom.sampling.latent_noise import labels_of

    n, classes, one = options.images, model.description.classes, class_of(options.class_, model)
    if not attention_layers(model.network):
        network = model.description.network
        raise UsageError(f"{network} has no attention layers; to train a network that has: pixelloom train sagan")
    if options.of != "generator" and model.discriminator is None:
        raise UsageError(f"--of {options.of}: this model was saved without its discriminator; use --of generator")
    labels: LabelsLike = labels_of(classes, options.seed, options.first, n) if classes and one is None else one
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

    stats = attention_stats(network, maps)
    return [_Layer(of, name, weights.cpu(), *stats[name]) for name, weights in maps]


def _named(parts: Sequence[_Part], name: str) -> list[_Part]:
    """The parts, with one layer only."""
    left = [replace(part, layers=[layer for layer in part.layers if layer.name == name]) for part in parts]
    if not any(part.layers for part in left):
        known = dict.fromkeys(layer.name for part in parts for layer in part.layers)
        raise UsageError(f"--layer: none is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
    return left


def _real(model: GANModel, options: MapOptions) -> tuple[Tensor, LabelsLike]:
    """Real images and their classes."""
    from pixelloom.runs.evaluate import data_for, examples

    classes = model.description.classes
    if options.on in _SPLITS:
        images, labels = examples(model, data_for(model), options.on, options.images)
        return images, labels if classes else None
    if classes and options.class_ is None:
        raise UsageError(f"--class: is needed for {options.on}, since the discriminator is class-conditional")
    return image_of("--on", Path(options.on), model.spec, fitted=True), class_of(options.class_, model)


def _strips(parts: Sequence[_Part], queries: Sequence[Place]) -> Iterator[Strip]:
    """Rows of the plot: one column per image; of several queries a block of rows per image, one column per query."""
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
            where = f"row {y}, column {x}" if len(queries) == 1 else f"image {block[0][0] + 1} of {n}"
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
        "images": len(part.images),
    }


def _word(value: object) -> str:
    return _size(value) if isinstance(value, tuple) else f"{value:z.3f}" if isinstance(value, float) else str(value)


def _size(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
