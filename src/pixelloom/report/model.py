"""What a comparison of models shows, as data, and which of their results can be compared.

Results of two models are comparable if they are of one metric under one evaluation protocol: the same images in the
same form, with the same conditioning. Where protocols differ, the report says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from pixelloom.core.types import ImageSpec, Levels
from pixelloom.metrics.results import Result
from pixelloom.metrics.table import BITS, is_distance, metric_of, value_text
from pixelloom.viz import curves

Protocol = tuple[tuple[str, str], ...]
"""Evaluation protocol of a metric, as (property, value): data, size, levels, .., conditioning, reference images."""
SAMPLES = "sample metrics"
"""Name of all sample metrics of a model among the metrics that are compared."""
_DEFAULTS = ("none", "crop", "white", "first", "0", "validation images")  # values that titles leave out


@dataclass(frozen=True)
class ModelEntry:
    """A model in the report.

    Attributes:
        name: name that the model was given by, shortened if that is unique.
        family: "pixel" or "gan".
        network: name of its network.
        recipe: name of its recipe, or "".
        data: source of its training data, or "".
        form: options of the data, as text.
        spec: shape and levels of its images.
        classes: number of classes it is conditioned on.
        parameters: number of trained parameters.
        images: training images seen until the model was saved.
        epochs: epochs until then.
        minutes: minutes until then.
        step: step at which it was saved, if the metrics of the run name it.
        validation: validation metrics by name.
        n: number of images that they were measured on.
        split: split that they were measured on, "validation" or "training".
        protocols: evaluation protocol of each selecting metric, and of the sample metrics.
        history: training curves; empty without a run around the model, or if an entry before has them.
        sha256: of the contents of its file.
        measured: sample metrics, if asked for.
        unmeasured: why there are none, though asked for.
        samples: levels uint8 [n, C, H, W].
        given: conditioning image of each sample, in the same form; None without.
        seconds: sampling time per image.
        threads: CPU threads that sampling could use, 0 for a GPU.
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
    protocols: dict[str, Protocol]
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
        """Family, network and data."""
        family = "GAN" if self.family == "gan" else f"{self.family} model"
        return f"{family}, {self.network} on {self.data or 'unknown data'}"

    def caption(self, seed: int) -> str:
        """Caption of the samples."""
        n = len(self.samples)
        how = ", classes in order" if self.classes else ""
        return f"{n} sample{'s' if n > 1 else ''}, seed {seed}{how}"

    def row(self) -> dict[str, str]:
        """A row of the table of models: column -> text."""
        shown = ", ".join(value_text(name, value) for name, value in self.validation.items())
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
            "saved at step": "unknown" if self.step is None else f"{self.step:,}",
            "seconds per image": f"{self.seconds:.2g} ({threads})",
            "checksum": self.sha256,
        }


@dataclass(frozen=True)
class Group:
    """Models with comparable results of a metric: their positions in the list of models."""

    metric: str
    protocol: Protocol
    members: tuple[int, ...]

    @property
    def title(self) -> str:
        """The metric and its protocol, as text."""
        (_, data), (_, size), (_, levels), *rest = self.protocol
        more = "".join(f", {what} {value}" for what, value in rest if value not in _DEFAULTS)
        return f"{self.metric} on {data}, {size}, {levels} levels{more}"


@dataclass(frozen=True)
class Table:
    """Comparable sample metrics.

    Attributes:
        title: the protocol.
        columns: names of the results.
        rows: position of a model in the list of models, and its results as text, "" for a missing one.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """The columns, each with an arrow in the direction of better values."""
        metrics = [metric_of(name) for name in self.columns]
        return tuple(f"{n} {m.arrow}" if m and m.arrow else n for n, m in zip(self.columns, metrics, strict=True))


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Attributes:
        models: the models.
        broken: names of models that could not be loaded or sampled, with the reason.
        number: samples of each model.
        seed: of the samples.
        hardware: processor or GPU.
        date: of the report.
    """

    models: tuple[ModelEntry, ...]
    broken: tuple[tuple[str, str], ...]
    number: int
    seed: int
    hardware: str
    date: str

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"{len(self.models)} model{'s' if len(self.models) > 1 else ''} side by side"

    @property
    def summary(self) -> str:
        """How samples and times were obtained."""
        return (
            f"Samples with seed {self.seed} on {self.hardware}, {self.date}. Seconds per image: one call for "
            f"{self.number} images after one to warm up, with any other load of the machine. Validation metrics were "
            "measured during the training of each run."
        )

    def remarks(self) -> dict[str, list[str]]:
        """Remarks below the report, by title."""
        return {
            "Caution": self.cautions(),
            "Not comparable": self.not_comparable(),
            "Not measured": self.unmeasured(),
            "Not shown": [f"{name}: {reason}" for name, reason in self.broken],
        }

    def groups(self) -> list[Group]:
        """Groups of models with comparable results, for each selecting metric and for the sample metrics."""
        found: dict[tuple[str, Protocol], list[int]] = {}
        for place, model in enumerate(self.models):
            for name, protocol in model.protocols.items():
                found.setdefault((name, protocol), []).append(place)
        return [Group(name, protocol, tuple(members)) for (name, protocol), members in found.items()]

    def tables(self) -> list[Table]:
        """Sample metrics, one table per protocol."""
        found = []
        for group in (group for group in self.groups() if group.metric == SAMPLES):
            each = [{one.name: result_text(one) for one in self.models[place].measured} for place in group.members]
            columns = tuple(dict.fromkeys(name for row in each for name in row))
            rows = (tuple(row.get(name, "") for name in columns) for row in each)
            found.append(Table(group.title, columns, tuple(zip(group.members, rows, strict=True))))
        return found

    def unmeasured(self) -> list[str]:
        """Models without the sample metrics that were asked for, with the reason."""
        return [f"{model.name}: {model.unmeasured}" for model in self.models if model.unmeasured]

    def not_comparable(self) -> list[str]:
        """Results that cannot be compared, with the reason, one sentence each."""
        groups, found = self.groups(), list[str]()
        for first, second in combinations(groups, 2):
            if first.metric == second.metric:
                pairs = zip(first.protocol, second.protocol, strict=True)
                why = "; ".join(
                    f"different {what} ({one}, {other})" for (what, one), (_, other) in pairs if one != other
                )
                found.append(f"{first.metric} of {self._names(first)} and of {self._names(second)}: {why}.")
        names = list(dict.fromkeys(group.metric for group in groups))
        distances = [name for name in names if is_distance(name)]
        if len(distances) > 1:
            found.append(f"{' and '.join(distances)}: distances in different features.")
        if BITS in names and distances:
            found.append(
                f"{BITS} and {' or '.join(distances)}: the first is the code length of held-out images under a model, "
                "the second a distance between samples and held-out images."
            )
        return found

    def cautions(self) -> list[str]:
        """Results that are comparable, but were measured on different numbers of images."""
        found = []
        for group in self.groups():
            counts = {place: self.models[place].n for place in group.members}
            if len(set(counts.values())) > 1:
                each = ", ".join(f"{self.models[i].name} {n or 'unknown'}" for i, n in counts.items())
                found.append(f"{group.metric} was measured on different numbers of images: {each}.")
        return found

    def _names(self, group: Group) -> str:
        return ", ".join(self.models[place].name for place in group.members)


def result_text(result: Result) -> str:
    """As in ``0.52 ± 0.1; real 0.01; N=2,000 / 900``: value, standard error, real-vs-real baseline, numbers."""
    deviation = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    baseline = "" if result.baseline is None else f"; real {result.baseline:.4g}"
    others = f" / {result.reference:,}" if result.reference else ""
    return f"{result.value:.4g}{deviation}{baseline}; N={result.n:,}{others}"
