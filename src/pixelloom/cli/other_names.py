"""Option names of other tools -> what they are called here, for the error of an unknown option."""

from __future__ import annotations

from collections.abc import Mapping

_RATE = "--optim.lr (GANs: --generator.lr and --discriminator.lr)"
_BUDGET = "--images (steps times the batch size), --epochs or --minutes"

TRAIN: Mapping[str, str] = {
    "--lr": _RATE,
    "--learning-rate": _RATE,
    "--batch": "--train.batch",
    "--batch-size": "--train.batch",
    "--bs": "--train.batch",
    "--epoch": "--epochs",
    "--num-epochs": "--epochs",
    "--n-epochs": "--epochs",
    "--max-epochs": "--epochs",
    "--steps": _BUDGET,
    "--num-steps": _BUDGET,
    "--max-steps": _BUDGET,
    "--iters": _BUDGET,
    "--iterations": _BUDGET,
    "--kimg": "--images (in images, not thousands)",
    "--time": "--minutes",
    "--workers": "--train.workers",
    "--num-workers": "--train.workers",
    "--accumulate": "--train.accumulate",
    "--grad-accum": "--train.accumulate",
    "--gpu": "--device cuda",
    "--gpus": "--devices",
    "--num-gpus": "--devices",
    "--cpu": "--device cpu",
    "--cuda": "--device cuda",
    "--fp16": "--precision bf16",
    "--amp": "--precision bf16",
    "--mixed-precision": "--precision bf16",
    "--dtype": "--precision",
    "--output": "--out",
    "--output-dir": "--out",
    "--outdir": "--out",
    "--out-dir": "--out",
    "--save-dir": "--out",
    "--logdir": "--out",
    "--log-dir": "--out",
    "--name": "--out runs/NAME",
    "--dataset": "--data",
    "--data-dir": "--data",
    "--datadir": "--data",
    "--dataroot": "--data",
    "--data-path": "--data",
    "--root": "--data-root",
    "--image-size": "--size",
    "--img-size": "--size",
    "--resolution": "--size",
    "--res": "--size",
    "--grayscale": "--gray",
    "--greyscale": "--gray",
    "--n-bits": "--levels (2 to the number of bits)",
    "--num-bits": "--levels (2 to the number of bits)",
    "--optimizer": "--optim.kind",
    "--weight-decay": "--optim.weight-decay",
    "--wd": "--optim.weight-decay",
    "--warmup": "--optim.warmup",
    "--clip": "--optim.clip",
    "--grad-clip": "--optim.clip",
    "--beta1": "--optim.betas",
    "--betas": "--optim.betas",
    "--ema": "--train.ema",
    "--ema-decay": "--train.ema (a relative width, not a decay)",
    "--channels": "--model.channels",
    "--hidden": "--model.hidden",
    "--layers": "--model.layers",
    "--dropout": "--model.dropout",
    "--n-mix": "--head.mixtures",
    "--latent-dim": "--model.latent",
    "--z-dim": "--model.latent",
    "--nz": "--model.latent",
    "--cond": "--classes",
    "--conditional": "--classes",
    "--class-cond": "--classes",
    "--n-critic": "--d-steps",
    "--checkpoint": "--resume, with --out of the run",
    "--ckpt": "--resume, with --out of the run",
    "--overwrite": "--force",
    "--model-name": "the first argument, as in `pixelloom train pixelcnn`",
    "--network": "the first argument, as in `pixelloom train pixelcnn`",
    "--arch": "the first argument, as in `pixelloom train pixelcnn`",
    "--recipe": "the first argument, as in `pixelloom train digits`",
}

_MODEL = {
    "--checkpoint": "the first argument, as in `pixelloom sample runs/digits`",
    "--ckpt": "the first argument, as in `pixelloom sample runs/digits`",
    "--model": "the first argument, as in `pixelloom sample runs/digits`",
    "--num-samples": "-n",
    "--n-samples": "-n",
    "--num-images": "-n",
    "--output": "--out",
    "--output-dir": "--out",
    "--outdir": "--out",
    "--overwrite": "--force",
    "--label": "--class",
    "--gpu": "--device cuda",
    "--cuda": "--device cuda",
    "--cpu": "--device cpu",
}
SAMPLE: Mapping[str, str] = {
    **_MODEL,
    "--outdir": "--each (a folder with one PNG per image)",
    "--output-dir": "--each (a folder with one PNG per image)",
    "--batch-size": "--batch",
    "--bs": "--batch",
    "--temp": "--temperature",
    "--cfg": "--guidance",
    "--cfg-scale": "--guidance (w of 1 + w: one less than the scale of other tools)",
    "--guidance-scale": "--guidance (w of 1 + w: one less than the scale of other tools)",
    "--trunc": "--truncation",
    "--truncation-psi": "--truncation (a bound on z, not psi)",
    "--seeds": "--seed, with -n and --first",
    "--labels": "--class, or --each-class",
    "--dtype": "--precision",
    "--nrow": "--columns",
    "--cols": "--columns",
    "--image": "--given",
}
EVALUATE: Mapping[str, str] = {
    **{name: here for name, here in _MODEL.items() if here not in ("--out", "--class")},
    "--metric": "--metrics",
    "--fid": "--metrics fd --features inception=FILE",
    "--kid": "--metrics kid",
    "--dataset": "--data",
    "--real": "--data",
    "--fake": "--samples",
    "--image-size": "--size",
}
SCORE: Mapping[str, str] = {
    **{name: here for name, here in _MODEL.items() if here in ("--force", "--device cuda", "--device cpu")},
    "--out": "--csv FILE (a row per image)",
    "--fpr": "--false-alarms",
    "--alpha": "--false-alarms",
    "--threshold": "--false-alarms (a rate; the threshold follows from held-out normal images)",
    "--ood": "--against",
    "--dataset": "--data",
    "--image-size": "--size",
}
NAMES: Mapping[str, Mapping[str, str]] = {"train": TRAIN, "sample": SAMPLE, "score": SCORE, "evaluate": EVALUATE}
"""Command -> option of other tools -> option here; other commands have those of ``_MODEL``."""

LACKING: Mapping[str, Mapping[str, str]] = {
    "sample": {
        "--keep-columns": "pixels are drawn row by row, each given those before it, so the left columns of the rows "
        "below would be ignored. What works: pixelloom complete MODEL IMAGE --hide right, or --box"
    }
}
"""Command -> option that does not exist -> the reason, and what works instead."""


def called(command: str, option: str) -> str:
    """What an option is called here; an empty text if it is not known."""
    return NAMES.get(command, _MODEL).get(option.replace("_", "-").lower(), "")
