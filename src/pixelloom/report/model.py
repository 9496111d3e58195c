"""Models side by side, as data: what there is to show of each, and which of their figures may stand beside each other.

A figure of two models compares if it is of one kind and was measured on the same ground: the same pictures in the same
form, under the same condition. Where it was not, that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from pixelloom.core.types import ImageSpec, Levels
from pixelloom.metrics.results import Result
from pixelloom.viz import curves

Ground = tuple[tuple[str, str], ...]
"""On what a figure was measured, as (what, which)."""
SAMPLES = "figures of samples"
"""What all that is measured of samples is called among figures that may compare."""
_USUAL = ("none", "crop", "white", "first", "0", "validation pictures")  # what goes without saying


@dataclass(frozen=True)
class Entry:
    """A model, as it is shown.

    Attributes:
        name: by which it was asked for, shortened where that is unique.
        family: "pixel" or "latent".
        network: name of its network.
        recipe: name of its recipe, or "".
        data: the source it was trained on, or "".
        form: what was done to the data, in words.
        spec: of its images.
        classes: number of those that it is told of.
        parameters: number of trained values.
        images: seen in training until it was kept.
        epochs: as images.
        minutes: as images.
        step: at which it was kept, where the run's figures name it.
        validation: figures by name.
        n: images that they were measured on.
        split: and of which split, "validation" or "training".
        grounds: on what each figure was measured that models are chosen by, and those of samples.
        history: figures over the run; empty where no run lies around the model, or an entry before has them.
        sha256: of the contents of its file.
        measured: figures of samples, where they were asked for.
        unmeasured: why there are none, though they were asked for.
        samples: levels uint8 [n, C, H, W].
        given: what each sample was drawn by, as images like these; None where by nothing.
        seconds: an image, measured while the samples were drawn.
        threads: CPU threads that could draw, 0 for a GPU.
    """

    name: str
    family: str
    network: str
    recipe: str
    data: str
    form: str
    spec: ImageSpec
    classes: int
    parameters: int
    images: float | None
    epochs: float | None
    minutes: float | None
    step: int | None
    validation: dict[str, float]
    n: int | None
    split: str
    grounds: dict[str, Ground]
    history: curves.History
    sha256: str
    measured: tuple[Result, ...]
    unmeasured: str
    samples: Levels
    given: Levels | None
    seconds: float
    threads: int

    @property
    def about(self) -> str:
        """What it is, in words."""
        return f"{self.family} model, {self.network} on {self.data or 'unknown data'}"

    def caption(self, seed: int) -> str:
        """How the samples were drawn."""
        n = len(self.samples)
        how = ", each class in turn" if self.classes else ""
        return f"{n} sample{'s' if n > 1 else ''}, seed {seed}{how}"

    def facts(self) -> dict[str, str]:
        """A row of the table: what of it -> which."""
        shown = ", ".join(figure(name, value) for name, value in self.validation.items())
        on = "" if self.n is None else f" (N={self.n:,}{'' if self.split == 'validation' else f', {self.split}'})"
        epochs = "" if self.epochs is None else f" ({self.epochs:.4g} epochs)"
        threads = "GPU" if not self.threads else "1 thread" if self.threads == 1 else f"up to {self.threads} threads"
        recipe = f", recipe {self.recipe}" if self.recipe not in ("", self.network) else ""
        return {
            "network": f"{self.network}{recipe}",
            "data": f"{self.data or 'unknown'}{f' ({self.form})' if self.form else ''}: {self.spec}",
            "parameters": f"{self.parameters:,}",
            "images seen": "unknown" if self.images is None else f"{self.images:,.0f}{epochs}",
            "minutes": "unknown" if self.minutes is None else f"{self.minutes:,.4g}",
            "validation": f"{shown}{on}" if shown else "unknown",
            "kept at step": "unknown" if self.step is None else f"{self.step:,}",
            "seconds an image": f"{self.seconds:.2g} ({threads})",
            "checksum": self.sha256,
        }


@dataclass(frozen=True)
class Group:
    """Models whose figure of one kind compares: places in the list of entries."""

    figure: str
    ground: Ground
    members: tuple[int, ...]

    @property
    def title(self) -> str:
        """The figure, and the ground in words."""
        (_, data), (_, size), (_, levels), *rest = self.ground
        more = "".join(f", {what} {which}" for what, which in rest if which not in _USUAL)
        return f"{self.figure} on {data}, {size}, {levels} levels{more}"


@dataclass(frozen=True)
class Table:
    """Figures of samples of models that compare.

    Attributes:
        title: says on what they were measured.
        columns: names of the figures.
        rows: place of a model in the list of entries, and its figures in words, "" for one that it lacks.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Comparison:
    """All that a page or a picture shows.

    Attributes:
        entries: models that can be shown.
        broken: names of the others, with the reason.
        number: samples asked for of each.
        seed: of the samples.
        hardware: that drew them.
        date: of the comparison.
    """

    entries: tuple[Entry, ...]
    broken: tuple[tuple[str, str], ...]
    number: int
    seed: int
    hardware: str
    date: str

    @property
    def title(self) -> str:
        """Of the page and the picture."""
        return f"{len(self.entries)} model{'s' if len(self.entries) > 1 else ''} side by side"

    @property
    def summary(self) -> str:
        """How it came about."""
        return (
            f"Samples of seed {self.seed}, drawn on {self.hardware} on {self.date}; seconds an image were measured "
            f"then, in one call for {self.number} after one image to warm up, whatever else the machine did. "
            "Validation figures are those of each run's own training."
        )

    def remarks(self) -> dict[str, list[str]]:
        """What is to be said besides, by title."""
        return {
            "With caution": self.cautions(),
            "What does not compare": self.apart(),
            "Not measured": self.unmeasured(),
            "Not shown": [f"{name}: {reason}" for name, reason in self.broken],
        }

    def groups(self) -> list[Group]:
        """Models whose figures compare, for each figure that models are chosen by, and for those of samples."""
        found: dict[tuple[str, Ground], list[int]] = {}
        for place, entry in enumerate(self.entries):
            for name, ground in entry.grounds.items():
                found.setdefault((name, ground), []).append(place)
        return [Group(name, ground, tuple(members)) for (name, ground), members in found.items()]

    def tables(self) -> list[Table]:
        """Figures of samples, a table for each ground."""
        found = []
        for group in (group for group in self.groups() if group.figure == SAMPLES):
            each = [{one.name: beside(one) for one in self.entries[place].measured} for place in group.members]
            columns = tuple(dict.fromkeys(name for row in each for name in row))
            rows = (tuple(row.get(name, "") for name in columns) for row in each)
            found.append(Table(group.title, columns, tuple(zip(group.members, rows, strict=True))))
        return found

    def unmeasured(self) -> list[str]:
        """Models without the figures of samples that were asked for, and why."""
        return [f"{entry.name}: {entry.unmeasured}" for entry in self.entries if entry.unmeasured]

    def apart(self) -> list[str]:
        """What does not compare, and why, a sentence each."""
        groups, said = self.groups(), list[str]()
        for first, second in combinations(groups, 2):
            if first.figure == second.figure:
                pairs = zip(first.ground, second.ground, strict=True)
                why = "; ".join(f"other {what} ({one}, {other})" for (what, one), (_, other) in pairs if one != other)
                said.append(f"{first.figure} of {self._names(first)} and of {self._names(second)}: {why}.")
        kinds = list(dict.fromkeys(group.figure for group in groups))
        distances = [kind for kind in kinds if kind.startswith(curves.DISTANCE)]
        if len(distances) > 1:
            said.append(f"{' and '.join(distances)}: distances of other features.")
        if curves.BITS in kinds and distances:
            said.append(
                f"{curves.BITS} and {' or '.join(distances)}: the one is the cost of held-out pictures under a model, "
                "the other a distance of samples from such pictures."
            )
        return said

    def cautions(self) -> list[str]:
        """Figures that compare, but were measured on other numbers of pictures."""
        said = []
        for group in self.groups():
            counts = {place: self.entries[place].n for place in group.members}
            if len(set(counts.values())) > 1:
                each = ", ".join(f"{self.entries[i].name} {n or 'unknown'}" for i, n in counts.items())
                said.append(f"{group.figure} was measured on different numbers of pictures: {each}.")
        return said

    def _names(self, group: Group) -> str:
        return ", ".join(self.entries[place].name for place in group.members)


def beside(found: Result) -> str:
    """As in ``0.52 ± 0.1; real 0.01; N=2,000 / 900``: what real pictures get in the place of samples is the baseline."""
    spread = "" if found.spread is None else f" ± {found.spread:.2g}"
    baseline = "" if found.baseline is None else f"; real {found.baseline:.4g}"
    others = f" / {found.reference:,}" if found.reference else ""
    return f"{found.value:.4g}{spread}{baseline}; N={found.n:,}{others}"


def figure(name: str, value: float) -> str:
    """As in ``0.1476 bits/dim``."""
    digits = {curves.BITS: ".4f", "nats/image": ".2f"}.get(name, ".4g")
    return f"{value:{digits}} {name}"
