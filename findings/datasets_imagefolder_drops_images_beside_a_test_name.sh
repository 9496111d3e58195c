#!/usr/bin/env bash
# datasets 5.2.0: one image with "test" in its name, and load_dataset("imagefolder") loads that image and nothing else.
#
# One would guess that a folder with one folder per class gives all images with their classes, as ImageFolder of
# torchvision does; at worst a FOLDER with the name "test" would become a split. Split names (train, test, testing, val,
# valid, dev, eval, ...) are looked for as words in the whole path, file names included, and as soon as any path has one,
# the paths that have none are in no split: they are dropped without a word. The classes that are left with one name lose
# their labels too. So a single "test_2.png" turns a labelled training set into one unlabelled test image, a class folder
# "dev" or "eval" swallows all other classes, and crops of a validation sheet ("val-003.png") are the data set. The common
# check, len(dataset["train"]), raises KeyError only if no path has "train" in it; with one such path it gives its number.
#
# Seen (the same in two runs):
#     datasets 5.2.0
#     cat/1.png cat/2.png dog/3.png dog/4.png
#         {'train': (4, ['cat', 'dog'])}
#     cat/1.png cat/test_2.png dog/3.png dog/4.png
#         {'test': (1, None)}
#     cat/1.png cat/contest_2.png dog/3.png dog/4.png
#         {'train': (4, ['cat', 'dog'])}
#     cat/1.png cat/train-2.png dog/3.png dog/4.png
#         {'train': (1, None)}
#     dev/1.png dev/2.png ops/3.png ops/4.png
#         {'validation': (2, None)}
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.3.5
export HF_HUB_OFFLINE=1 HF_HOME="$work/home"
"$work/venv/bin/python" - "$work" <<'PY'
import sys
import tempfile
from pathlib import Path

import datasets
from PIL import Image

datasets.disable_progress_bars()


def loaded(*names):
    """Splits of a folder with these images: number of images and names of classes."""
    root = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(root / name)
    found = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=tempfile.mkdtemp(dir=sys.argv[1]))
    return {k: (len(v), v.features["label"].names if "label" in v.features else None) for k, v in found.items()}


cases = {
    ("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"): {"train": (4, ["cat", "dog"])},
    ("cat/1.png", "cat/test_2.png", "dog/3.png", "dog/4.png"): {"test": (1, None)},
    ("cat/1.png", "cat/contest_2.png", "dog/3.png", "dog/4.png"): {"train": (4, ["cat", "dog"])},
    ("cat/1.png", "cat/train-2.png", "dog/3.png", "dog/4.png"): {"train": (1, None)},
    ("dev/1.png", "dev/2.png", "ops/3.png", "ops/4.png"): {"validation": (2, None)},
}
print(f"datasets {datasets.__version__}")
expected = True
for names, described in cases.items():
    found = loaded(*names)
    expected = expected and found == described
    print(f"{' '.join(names)}\n    {found}")
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
