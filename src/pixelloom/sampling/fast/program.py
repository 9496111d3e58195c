"""Step programs: the calls of a step, bound once for all steps whose wavefronts have the same shapes.

Two steps differ in where their wavefronts lie, and so in the addresses that they read and write. The views of caches in
the calls of a step are recorded when it is bound. For another step with wavefronts of the same shapes they move, all
views of one memory by the same distance, and the calls stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from pixelloom.layers.reads import Position
from pixelloom.sampling.fast.recorder import Calls, is_one_of, tensors_of
from pixelloom.sampling.fast.wavefronts import Wavefront

Move = Callable[[Wavefront], None]


class Memory(Protocol):
    """Memory with an address per position.

    Attributes:
        flat: the memory.
        row: addresses between rows of the image.
        unit: numbers per address.
        first_row: the row at address 0.
    """

    flat: Tensor
    row: int
    first_row: int

    @property
    def unit(self) -> int:
        """Numbers per address."""


@dataclass
class _Views:
    """Views of one memory that move together.

    Attributes:
        memory: what they are views of.
        storage: of the memory.
        sweep: number of the sweep whose wavefronts they follow.
        at: first position of the wavefront for which they were made.
        first_row: of the memory at that time.
        stride: positions of the memory between neighboring positions of the wavefront.
        up: neighboring positions of the wavefront per position of the memory.
        views: (view, offset, size, strides).
    """

    memory: Memory
    storage: Any
    sweep: int
    at: Position
    first_row: int
    stride: Position
    up: Position
    views: list[tuple[Tensor, int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)

    def move(self, y: int, x: int) -> None:
        """Move the views to a wavefront with another first position."""
        # Positions that share an input position have programs of their own, so that the divisions are exact.
        rows = (y - self.at[0]) * self.stride[0] // self.up[0] - self.memory.first_row + self.first_row
        columns = (x - self.at[1]) * self.stride[1] // self.up[1]
        distance, storage = (rows * self.memory.row + columns) * self.memory.unit, self.storage
        for view, offset, size, strides in self.views:
            view.set_(storage, offset + distance, size, strides)


class Binding:
    """The program that is being bound. Views are recorded only while one is.

    Attributes:
        calls: of the step.
        kept: whether the program holds for other steps; not if a call depends on positions in other ways than by views.
    """

    def __init__(self) -> None:
        self.calls: Calls = []
        self.kept = True
        self._groups: dict[Any, _Views] = {}
        self._moves: list[tuple[int, Move]] = []
        self._sweep, self._at = 0, (0, 0)

    def follow(self, sweep: int, wavefront: Wavefront) -> None:
        """The views made from now on follow the wavefronts of a sweep."""
        self._sweep, self._at = sweep, (wavefront.segments[0].y, wavefront.segments[0].x)

    def view(
        self,
        memory: Memory,
        offset: int,
        size: tuple[int, ...],
        strides: tuple[int, ...],
        stride: Position = (1, 1),
        up: Position = (1, 1),
    ) -> Tensor:
        """A view that moves."""
        key = memory, self._sweep, stride, up
        group = self._groups.get(key)
        if group is None:
            storage = memory.flat.untyped_storage()
            group = _Views(memory, storage, self._sweep, self._at, memory.first_row, stride, up)
            self._groups[key] = group
        view = torch.empty(0, dtype=memory.flat.dtype, device=memory.flat.device)
        view.set_(group.storage, offset, size, strides)
        group.views.append((view, offset, size, strides))
        return view

    def moving(self, move: Move) -> None:
        """Call a function with the wavefront of each step, this one included."""
        self._moves.append((self._sweep, move))

    def program(self) -> Program:
        """The program, complete."""
        return Program(self.calls, list(self._groups.values()), self._moves)


@dataclass(frozen=True)
class Program:
    """The calls of a step, and what moves from step to step."""

    calls: Calls
    views: list[_Views]
    moves: list[tuple[int, Move]]

    def move(self, step: int, wavefronts: list[dict[int, Wavefront]]) -> None:
        """Move the views to another step."""
        for group in self.views:
            first = wavefronts[group.sweep][step].segments[0]
            group.move(first.y, first.x)
        for sweep, move in self.moves:
            move(wavefronts[sweep][step])


def all_move(program: Program, calls: Calls) -> bool:
    """Whether calls use memory of the program by the views that move only. A view of such a view does not."""
    moving = [view for group in program.views for view, *_ in group.views]
    used = (one for call in calls for one in tensors_of(call) if is_one_of(one, moving))
    return all(any(one is view for view in moving) for one in used)


def view_of(
    memory: Memory,
    binding: Binding | None,
    offset: int,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    stride: Position = (1, 1),
    up: Position = (1, 1),
) -> Tensor:
    """A view of memory, which moves if a program is being bound."""
    if binding is None:
        return memory.flat.as_strided(size, strides, offset)
    return binding.view(memory, offset, size, strides, stride, up)


class Planes:
    """A tensor [H * W, images or 1, n] as memory of which views can move."""

    def __init__(self, planes: Tensor, width: int) -> None:
        self.flat, self.row, self.first_row = planes, width, 0

    @property
    def unit(self) -> int:
        """Numbers per address: those of a position."""
        return self.flat.shape[1] * self.flat.shape[2]

    def single(self, wavefront: Wavefront, binding: Binding | None) -> Tensor:
        """The first position, [images or 1, n]."""
        s, size = wavefront.segments[0], self.flat.shape[1:]
        return view_of(self, binding, (s.y * self.row + s.x) * self.unit, tuple(size), (size[1], 1))

    def views(self, wavefront: Wavefront, binding: Binding | None) -> list[Tensor]:
        """Per segment a strided slice [positions, images or 1, n]."""
        images, features = self.flat.shape[1:]
        found = []
        for s in wavefront.segments:
            between, first = s.dy * self.row + s.dx, s.y * self.row + s.x
            strides = (between * self.unit, features, 1)
            found.append(view_of(self, binding, first * self.unit, (s.n, images, features), strides))
        return found
