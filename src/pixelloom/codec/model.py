"""An exported model: a lowered network with its head, as the codec of blocks of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import pixelloom
from pixelloom.codec import sizes, stored_graph
from pixelloom.codec.carriers import on_cpu
from pixelloom.codec.coder import Decoder, Encoder
from pixelloom.codec.execution import Execution, Order
from pixelloom.codec.head_parts import LARGEST
from pixelloom.codec.heads import IntegerHead, load_head
from pixelloom.codec.lowering import PROFILES
from pixelloom.codec.operations import IntegerNode
from pixelloom.codec.proof import prove
from pixelloom.core.errors import ModelError, shortened
from pixelloom.core.types import ImageSpec
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.layers.reads import Size

FORMAT = 1
CARRIERS = {"float32": torch.float32, "float64": torch.float64}
"""Precisions that may hold the integers, the faster one first."""
_EXACT = {"float32": 1 << 24, "float64": 1 << 53}  # they hold all integers up to it
ANSWERED = 16  # images of the known answer; torch has other convolutions for 16 images or more
_BATCH = 64  # images of a parallel pass, at most
_KEPT = 4  # other sizes whose plans are kept, at most, and of sizes.MAX_PIXELS pixels together
_NO_IDENTITY = ("card", "identity", "bounds")  # fields of a file that do not determine the bytes of images


@dataclass
class CodecModel:
    """A lowered network and its head. Equal integers give equal bytes, on every machine.

    Attributes:
        nodes: the lowered network.
        head: the distribution of the values of one draw.
        spec: shape and levels of the images.
        groups: channel groups: C where channels are coded one after the other, else 1.
        steps: the step at which each value is coded, int64 [C, H, W]; part of the identity.
        answer: SHA-256 of the logits of the known images.
        profile: number of the widths.
        card: where the model is from and what its lowering costs; for people, not part of the identity.
        carrier: precision that is used; None for the fastest that gives the known answer.
        original: the exported model, where this one is :meth:`resized`.
    """

    nodes: list[IntegerNode]
    head: IntegerHead
    spec: ImageSpec
    groups: int
    steps: Tensor
    answer: str
    profile: int = 1
    card: dict[str, Any] = field(default_factory=dict)
    carrier: str | None = None
    original: CodecModel | None = None

    def __post_init__(self) -> None:
        known = self.original
        self.bounds: list[int] = known.bounds if known else prove(self.nodes, PROFILES[self.profile].bound)
        self._sizes: dict[Size, CodecModel] = {}

    @cached_property
    def identity(self) -> bytes:
        """SHA-256 of all that determines the bytes of a file; a resized model has that of the exported one."""
        if self.original is not None:
            return self.original.identity
        return _identity_of(*self._stored())

    @cached_property
    def is_local(self) -> bool:
        """Whether images of other sizes can be coded."""
        try:
            sizes.reach(self.nodes)
        except ModelError:
            return False
        return True

    def resized(self, height: int, width: int) -> CodecModel:
        """The same model for images of another size.

        Raises:
            ModelError: if the network is not local, naming the layer that fixes the size.
            UsageError: for a size that is out of range.
        """
        if self.original is not None:
            return self.original.resized(height, width)
        size = (height, width)
        if size == self.spec.shape[1:]:
            return self
        if size not in self._sizes:
            sizes.reach(self.nodes)
            spec, nodes = sizes.spec_of_size(self.spec, height, width), sizes.of_size(self.nodes, size)
            found = replace(self, nodes=nodes, spec=spec, original=self)
            while self._sizes and (len(self._sizes) >= _KEPT or self._planned + height * width > sizes.MAX_PIXELS):
                self._sizes.pop(next(iter(self._sizes)))
            # Of the stored graph itself, as the format defines it: fusion may change the schedule.
            plain = Execution(nodes, spec, self.groups, self._execution.dtype, fuse=False)
            found.steps = torch.from_numpy(plain.own_order.steps)
            self._sizes[size] = found
        return self._sizes[size]

    @property
    def _planned(self) -> int:
        """Pixels of the sizes whose plans are kept."""
        return sum(height * width for height, width in self._sizes)

    def execution(self, carrier: str) -> Execution:
        """The lowered network in one precision."""
        order = Order(self.steps.numpy(), self.groups)
        return Execution(self.nodes, self.spec, self.groups, CARRIERS[carrier], order)

    @cached_property
    def _execution(self) -> Execution:
        """The network in the fastest precision that gives the known answer.

        Raises:
            ModelError: if none does.
        """
        if self.original is not None:
            known = self.original._execution
            return self.execution(next(name for name, dtype in CARRIERS.items() if dtype == known.dtype))
        bound = PROFILES[self.profile].bound
        held = [name for name in CARRIERS if bound <= _EXACT[name]]
        for carrier in [self.carrier] if self.carrier else held:
            execution = self.execution(carrier)
            try:
                found = answer_of(execution)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:  # of nodes that do not fit together
                raise ModelError(f"the exported model cannot be executed: {shortened(str(error), 200)}") from error
            if found == self.answer:
                return execution
        raise ModelError(
            "this machine does not compute the integers of the exported model: no precision gives its known answer. "
            "Nothing was written"
        )

    def logits(self, levels: Tensor) -> Tensor:
        """Integer parameters of the head, [B, H, W, outputs], for levels uint8 [B, C, H, W]."""
        batches = (levels[i : i + self._batch] for i in range(0, len(levels), self._batch))
        return torch.cat([torch.cat([found for _, found in self._rows_of_logits(each)], dim=1) for each in batches])

    def encode(self, levels: Tensor) -> bytes:
        """The payload of one block, levels uint8 [B, C, H, W]."""
        coder = Encoder()
        with on_cpu():
            coder.encode(*self.intervals(levels))
        return coder.payload()

    def intervals(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """For each value, in the order of the stream: counts below its level, and of its level, int64 [N]."""
        n, groups = len(levels), self.groups
        parts = [self._raster_intervals(levels[i : i + self._batch]) for i in range(0, n, self._batch)]
        order = self._execution.order
        group, place = (torch.from_numpy(column.copy()) for column in order.values.T)
        symbols = parts[0][0].shape[-1]
        step = order.steps.reshape(self.spec.channels, -1)[:: self.spec.channels // groups][
            group.numpy(), place.numpy()
        ]
        to = _by_symbols(step, n, symbols)
        found = []
        for pieces in zip(*parts, strict=True):
            # [B, H * W, groups, symbols] -> [B, draws, symbols] -> [draws, B, symbols] -> [draws * B * symbols]
            values = torch.cat(pieces)[:, place, group].transpose(0, 1).flatten()
            found.append(torch.empty(len(values), dtype=torch.int64).index_copy_(0, to, values.long()))
        return found[0], found[1]

    def _raster_intervals(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """The intervals of all values, int32 [B, H * W, groups, symbols] both."""
        n, groups, channels = len(levels), self.groups, self.spec.channels
        found: list[tuple[Tensor, ...]] = []
        for rows, logits in self._rows_of_logits(levels):
            # [B, C, rows, W] -> [B, groups, C / groups, rows * W] -> [B * rows * W * groups, C / groups]
            values = levels[:, :, rows].reshape(n, groups, channels // groups, -1).permute(0, 3, 1, 2).flatten(0, 2)
            # [B, rows, W, outputs] -> [B * rows * W * groups, parameters]
            edges = self.head.edges(logits.reshape(-1, self.head.parameters), values)
            found.append(tuple(edge.int().view(n, -1, groups, edge.shape[1]) for edge in edges))
        below, count = (torch.cat(pieces, dim=1) for pieces in zip(*found, strict=True))
        return below, count

    @property
    def _batch(self) -> int:
        """Images of a parallel pass."""
        return max(1, min(_BATCH, sizes.WINDOW // (self.spec.height * self.spec.width)))

    def _rows_of_logits(self, levels: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their parameters [B, rows, W, outputs], from top to bottom; of large images in bounded memory."""
        if self.spec.height * self.spec.width <= sizes.WINDOW or not self.is_local:
            yield slice(0, self.spec.height), self._execution.logits(levels)
        else:
            yield from self._windows(levels)

    @cached_property
    def _windows(self) -> sizes.Windows:
        return sizes.Windows(self.nodes, self.spec, self.groups, self._execution.dtype)

    def decode(self, payload: bytes, n: int) -> Tensor:
        """Levels uint8 [n, C, H, W] of a payload; of a wrong one, some levels."""
        return self.decode_blocks([payload], n)[0]

    def decode_blocks(self, payloads: Sequence[bytes], n: int) -> Tensor:
        """Levels uint8 [blocks, n, C, H, W] of several payloads at once; a wrong one does not affect the others.

        The steps of the sampler are small, so that four blocks of 64 images take half the time of one after the other.
        """
        coders, execution = [Decoder(payload) for payload in payloads], self._execution

        def draw(params: Tensor, group: int, channels: slice) -> Tensor:
            if len(coders) == 1:
                return self.head.decode(params, coders[0])
            blocks = params.view(-1, len(coders), n, params.shape[1])  # [positions, blocks, n, parameters]
            found = [
                self.head.decode(blocks[:, i].flatten(0, 1), coder).view(len(blocks), 1, n, -1)
                for i, coder in enumerate(coders)
            ]
            return torch.cat(found, dim=1).flatten(0, 2)  # [positions, blocks, n, channels] -> [M, channels]

        with on_cpu():
            same = np.array_equal(execution.own_order.values, execution.order.values)
            levels = (execution.draw if same else execution.draw_plainly)(len(coders) * n, draw)
        return levels.view(len(coders), n, *self.spec.shape)

    # Files

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        nodes, tensors = stored_graph.store(self.nodes)
        head, of_head = self.head.stored()
        tensors |= {f"head.{name}": value for name, value in of_head.items()}
        described = {
            "codec": FORMAT, "profile": self.profile, "image": _image_of(self.spec), "groups": self.groups,
            "nodes": nodes, "head": head, "answer": self.answer,
        }  # fmt: skip
        return described, tensors | {"steps": self.steps.to(torch.int32)}

    def save(self, path: Path | str) -> None:
        """Write the export to one file.

        Raises:
            ModelError: if it cannot be written; an existing file is then unchanged.
        """
        described, tensors = self._stored()
        beside = {"card": self.card, "identity": self.identity.hex(), "bounds": self.bounds}
        save_tensors(Path(path), tensors, described | beside)

    @classmethod
    def load(cls, path: Path | str) -> CodecModel:
        """Read an export; nothing in it is run.

        Raises:
            ModelError: if it is missing, damaged, or not an export, naming what is wrong.
        """
        with on_cpu():
            return cls._load(Path(path))

    @classmethod
    def _load(cls, path: Path) -> CodecModel:
        tensors, meta = load_tensors(path)
        if "codec" not in meta:
            raise ModelError(f"{path}: a model, not an export; `pixelloom export MODEL --codec FILE` makes one")
        if meta["codec"] != FORMAT:
            raise ModelError(
                f"{path}: an export of format {shortened(repr(meta['codec']))}; this is Pixelloom "
                f"{pixelloom.__version__}, which reads format {FORMAT}: update Pixelloom"
            )
        try:
            found = _loaded(meta, tensors)
        except (ModelError, KeyError, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ModelError(f"{path}: damaged or not an export: {shortened(str(error), 300)}") from error
        # Of what is stored, so that the identity of a file does not change with the code that writes exports
        found.identity = _identity_of({k: v for k, v in meta.items() if k not in _NO_IDENTITY}, tensors)
        if found.identity.hex() != meta.get("identity"):
            raise ModelError(f"{path}: damaged: its contents do not match its identity; use another copy")
        return found


def _image_of(spec: ImageSpec) -> dict[str, int]:
    """What an export stores of its images; part of its identity."""
    return {name: getattr(spec, name) for name in ("channels", "height", "width", "levels")}


def _identity_of(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 of JSON with sorted keys, and of name, type, shape and bytes of each tensor, sorted by name."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.digest()


def _loaded(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CodecModel:
    profile, groups = meta["profile"], meta["groups"]
    if type(profile) is not int or profile not in PROFILES:
        raise ModelError(f"profile {shortened(repr(profile))} is not known here; a newer Pixelloom may know it")
    spec = ImageSpec(**meta["image"])
    steps = tensors["steps"].long()
    of_head = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    head = load_head(meta["head"], of_head)
    nodes = stored_graph.load(meta["nodes"], tensors)
    if any(type(value) is not int for value in (groups, *meta["image"].values())) or meta["image"] != _image_of(spec):
        raise ModelError("its shape of images or its channel groups are no integers")
    if tensors["steps"].dtype != torch.int32 or groups not in (1, spec.channels) or tuple(steps.shape) != spec.shape:
        raise ModelError("its order of values does not fit its images")
    if not isinstance(meta["answer"], str):
        raise ModelError("its known answer is missing")
    if head.levels != spec.levels or head.channels * groups != spec.channels:
        raise ModelError("its head does not fit its images")
    if nodes[-1].features != head.parameters * groups or nodes[-1].size != (spec.height, spec.width):
        raise ModelError("its output does not fit its head")
    if nodes[-1].largest > LARGEST:
        raise ModelError(f"its output may exceed {LARGEST}, more than a head takes")
    if nodes[0].size != nodes[-1].size or any(max(n.size[0] / spec.height, n.size[1] / spec.width) > 2 for n in nodes):
        raise ModelError("its grids of positions do not fit its images")
    if nodes[0].features != spec.channels or len(nodes[0].tensors.get("table", ())) != spec.levels:
        raise ModelError("its image does not fit its levels")
    card = meta.get("card")
    return CodecModel(
        nodes, head, spec, groups, steps, meta["answer"], profile, dict(card) if isinstance(card, dict) else {}
    )


def _by_symbols(step: npt.NDArray[np.int64], images: int, symbols: int) -> Tensor:
    """Place in the stream of symbol s of image i of draw d, int64 [draws * images * symbols].

    The draws of a step have their first symbols first, then their second ones.

    Args:
        step: of each draw, ascending.
        images: number of images.
        symbols: number of symbols of a draw.
    """
    first, end = (np.searchsorted(step, step, side).repeat(images) * images for side in ("left", "right"))
    row, of_step = np.arange(len(first)) - first, end - first
    return torch.from_numpy(((first * symbols + row)[:, None] + np.arange(symbols) * of_step[:, None]).ravel())


def known_images(spec: ImageSpec) -> Tensor:
    """The images of the known answer, levels uint8 [ANSWERED, C, H, W], by integer arithmetic alone."""
    numbers = np.arange(ANSWERED * spec.dims, dtype=np.uint64)
    mixed = (numbers * np.uint64(2654435761) >> np.uint64(13)) % np.uint64(spec.levels)
    return torch.from_numpy(mixed.astype(np.uint8)).view(ANSWERED, *spec.shape)


def answer_of(execution: Execution) -> str:
    """SHA-256 of the logits of the known images, as little-endian 32-bit integers."""
    logits = execution.logits(known_images(execution.spec))
    return hashlib.sha256(logits.to(torch.int32).numpy().astype("<i4").tobytes()).hexdigest()
