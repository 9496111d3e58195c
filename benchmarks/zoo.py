"""Package a trained run as a pretrained model: weights, description and model card, with its figures on the test split.

    python benchmarks/zoo.py RUN NAME --command "pixelloom train ..." --license "..." [--half] [-n 10000] [--about ...]

A pixel model is measured by its likelihood, a class-conditional GAN of digits by the share of samples of their class,
other GANs by KID; the card of a GAN has its KID, precision and recall, each with the real-vs-real baseline. The
discriminator of a GAN is left out: only attention maps need it.

The weights are those that users of the run get. ``--half`` stores them as float16 if the figure keeps its last printed
digit; otherwise the command stops and nothing is written. The folder ``src/pixelloom/models/pretrained/NAME`` is
replaced, and the entry of the table ``MODELS`` is printed.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
from typing import NamedTuple

import torch

import pixelloom as pl
from pixelloom.engine.safetensors_io import save_described
from pixelloom.models import pretrained
from pixelloom.models.description import CONFIG, WEIGHTS
from pixelloom.models.model_card import model_card

CARD = "README.md"
SAMPLES = 2000


class Figures(NamedTuple):
    """Figures of a model on the test split.

    ``result`` is a value, its unit and its 95 % interval, ``n`` the images or samples it was measured on, ``rows`` what
    the card has besides, and ``check`` what tests compute again on few images.
    """

    result: str
    n: int
    rows: dict[str, str]
    check: float


def figures(model: pl.GenerativeModel, n: int | None) -> Figures:
    """Measure a model of either family on the test split."""
    return samples_of(model, n or SAMPLES) if "likelihood" not in model.can else likelihood_of(model, n)


def likelihood_of(model: pl.GenerativeModel, n: int | None) -> Figures:
    """The likelihood: nats per image of binary images, else bits/dim."""
    found = pl.evaluate(model, limit=n)
    nats = model.spec.levels == 2
    value, interval = (
        (found.nats_per_image, found.nats_per_image_95) if nats else (found.bits_per_dim, found.bits_per_dim_95)
    )
    digits, unit = (2, "nats/image") if nats else (3, "bits/dim")
    low, high = interval or (value, value)
    result = f"{value:.{digits}f} {unit} (95 %: {low:.{digits}f} to {high:.{digits}f})"
    check = pl.evaluate(model, limit=pretrained.CHECKED).nats_per_image
    return Figures(result, found.n, {"test": f"{result}, {found.n:,} images of the test split"}, check)


def samples_of(model: pl.GenerativeModel, n: int) -> Figures:
    """Metrics of n samples against all images of the test split."""
    metrics = ("kid", "precision", "recall", *(("accuracy",) if "classes" in model.can else ()))
    *distances, last = found = pl.measure(model, metrics=metrics, n=n)
    if last.name.startswith("accuracy") and last.interval is not None:
        low, high = last.interval
        result = f"{100 * last.value:.1f} % of their class (95 %: {100 * low:.1f} to {100 * high:.1f})"
    else:
        distances, last = found, found[0]
        reach = 1.96 * (last.standard_error or 0.0)
        result = f"{last.value:.4f} {last.name} (95 %: {last.value - reach:.4f} to {last.value + reach:.4f})"
    rows = {"test": f"{result}, {n:,} samples"}
    for row in distances:
        digits = 4 if row.name.startswith("kid") else 3
        rows[row.name] = f"{row.value:.{digits}f} (real images: {row.baseline or 0:.{digits}f})"
    return Figures(result, n, rows, pl.measure(model, metrics=("kid",), n=pretrained.CHECKED)[0].value)


def card(name: str, model: pl.GenerativeModel, sha256: str, about: str, facts: dict[str, str]) -> str:
    """The card of the run, with the model's name, a sentence about it, and the figures of the test split."""
    head, _, table = model_card(model, sha256).partition("\n")
    rows = "".join(f"| {key} | {value} |\n" for key, value in facts.items())
    table = table.replace("| weights |", f"{rows}| weights |", 1).replace("PATH OF THIS FOLDER", name)
    return f"# {name}\n\n{about} ({head.removeprefix('# ')})\n{table}"


def main() -> None:
    """Evaluate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("name")
    parser.add_argument("--command", required=True, help="the command that repeats the training")
    parser.add_argument("--license", required=True, help="license of the data")
    parser.add_argument("--about", default="", help="one sentence for the table and the card")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument("--minutes", type=float, help="minutes of the training, where the run counted others too")
    parser.add_argument("-n", type=int, help="test images, evenly spaced, or samples of a GAN; default: all, or 2000")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = pl.load(options.run)
    record = model.description.training
    updates = {"command": options.command, "path": ""} | ({"minutes": options.minutes} if options.minutes else {})
    description = model.description.model_copy(update={"training": record.model_copy(update=updates)})
    target = pretrained.folder(options.name)
    draft = target.with_name(target.name + ".draft")
    sha256 = save_described(
        draft / WEIGHTS,
        draft / CONFIG,
        model.network.state_dict(),
        description.model_dump(mode="json"),
        half=options.half,
    )
    stored = pl.load(draft)
    found = figures(stored, options.n)
    if options.half and (full := figures(model, options.n).result).split()[0] != found.result.split()[0]:
        shutil.rmtree(draft)
        raise SystemExit(f"{options.name}: float32 {full}, float16 {found.result}: keep float32")
    facts = {
        **found.rows,
        "date of the test": datetime.date.today().isoformat(),
        "license of the data": options.license,
        "stored as": "float16; the test figure is that of float32 to its last digit" if options.half else "float32",
    }
    (draft / CARD).write_text(card(options.name, stored, sha256, options.about, facts), encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    print(f"""    "{options.name}": Pretrained(
        sha256="{sha256}",
        about="{options.about}",
        result="{found.result}",
        n={found.n},
        check={found.check:.4f},
    ),""")


if __name__ == "__main__":
    main()
