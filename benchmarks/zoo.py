"""Package a trained run as a pretrained model: weights, description and model card, with its figures on the test split.

    python benchmarks/zoo.py RUN NAME --command "pixelloom train ..." --license "..." [--half] [-n 10000] [--about ...]

The weights are those that users of the run get. ``--half`` stores them as float16 if the figure keeps its last printed
digit; otherwise the command stops and nothing is written. The folder ``src/pixelloom/models/pretrained/NAME`` is
replaced, and the entry of the table ``MODELS`` is printed.
"""

from __future__ import annotations

import argparse
import datetime
import shutil

import torch

import pixelloom as pl
from pixelloom.engine.safetensors_io import save_described
from pixelloom.metrics.likelihood import Likelihood
from pixelloom.models import pretrained
from pixelloom.models.description import CONFIG, WEIGHTS
from pixelloom.models.model_card import model_card

CARD = "README.md"


def shown(found: Likelihood, levels: int) -> str:
    """The figure that is kept: nats per image of binary images, else bits/dim."""
    nats = levels == 2
    value, interval = (
        (found.nats_per_image, found.nats_per_image_95) if nats else (found.bits_per_dim, found.bits_per_dim_95)
    )
    digits, unit = (2, "nats/image") if nats else (3, "bits/dim")
    low, high = interval or (value, value)
    return f"{value:.{digits}f} {unit} (95 %: {low:.{digits}f} to {high:.{digits}f})"


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
    parser.add_argument("-n", type=int, help="test images, evenly spaced; default: all")
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
    stored, levels = pl.load(draft), model.spec.levels
    found = pl.evaluate(stored, limit=options.n)
    if options.half:
        full = pl.evaluate(model, limit=options.n)
        if shown(full, levels).split()[0] != shown(found, levels).split()[0]:
            shutil.rmtree(draft)
            raise SystemExit(
                f"{options.name}: float32 {shown(full, levels)}, float16 {shown(found, levels)}: keep float32"
            )
    check = pl.evaluate(stored, limit=pretrained.CHECKED)
    facts = {
        "test": f"{shown(found, levels)}, {found.n:,} images of the test split",
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
        result="{shown(found, levels)}",
        n={found.n},
        check={check.nats_per_image:.4f},
    ),""")


if __name__ == "__main__":
    main()
