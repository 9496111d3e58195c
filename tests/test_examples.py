"""The scripts of examples/ run, and what they print and draw is true."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from pixelloom.data.catalog import load

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an example in this process; what it printed."""
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = before
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the embedded digits, barely trained."""
    out = tmp_path_factory.mktemp("run") / "digits"
    small = {"model.channels": 16, "model.hidden": 8, "model.blocks": 1}
    pl.train("digits", images=320, out=out, overrides=small)
    return out


def test_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("train", "--images", "320", "--out", str(tmp_path / "run"), capsys=capsys)
    bits = float(re.search(r"test: ([\d.]+) bits/dim", printed)[1])
    assert abs(pl.evaluate(pl.load(tmp_path / "run")).bits_per_dim - bits) < 5e-4
    assert bits < np.log2(17)  # better than uniform
    assert Image.open(tmp_path / "run" / "examples.png").size[0] > 5 * 8


def test_likelihood(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranked.png"
    printed = run("likelihood", "--model", str(trained), "--count", "3", "--out", str(out), capsys=capsys)
    n, mean = re.search(r"(\d+) images: mean ([\d.]+) bits/dim", printed).groups()
    truth = pl.evaluate(pl.load(trained), split="test")
    assert int(n) == truth.n == 269
    assert abs(float(mean) - truth.bits_per_dim) < 5e-4
    test, _ = load(pl.DataConfig(source="digits")).test.take(np.arange(269))
    order = pl.load(trained).log_prob(test).argsort(descending=True).numpy()
    shown = np.concatenate([test[order[:3]], test[order[-3:]]])
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(pl.grid(shown, 17, columns=3)))


def test_sample(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.png"
    arguments = ["--model", str(trained), "--columns", "3", "--seed", "5", "--temperatures", "0.5", "1.0"]
    run("sample", *arguments, "--out", str(out), capsys=capsys)
    model = pl.load(trained)
    rows = [model.sample(3, seed=5, temperature=t).numpy() for t in (0.5, 1.0)]
    expected = pl.grid(np.concatenate(rows), 17, columns=3)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(expected))


def test_complete(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c.png"
    run("complete", "--model", str(trained), "--rows", "2", "--draws", "3", "--out", str(out), capsys=capsys)
    truth, _ = load(pl.DataConfig(source="digits")).test.take([0, 268])
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    given = torch.from_numpy(truth.repeat(3, axis=0))
    drawn = pl.load(trained).sample(6, given=given, mask=mask, seed=0, method="plain").numpy()  # exact, as below
    upper = np.where(mask.numpy(), truth, 0)
    rows = [np.concatenate([upper[i : i + 1], drawn[3 * i : 3 * i + 3], truth[i : i + 1]]) for i in range(2)]
    expected = pl.grid(np.concatenate(rows), 17, columns=5)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(expected))


def test_score(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.png"
    words = ["--model", str(trained), "--false-alarms", "0.02", "--count", "4", "--out", str(out)]
    printed = run("score", *words, capsys=capsys)
    model, test = pl.load(trained), load(pl.DataConfig(source="digits")).test.take(np.arange(269))[0]
    normal = pl.score(model, test, false_alarms=0.02)
    odd = np.concatenate([test[:, :, 4:], test[:, :, :4]], axis=2)  # the halves exchanged
    outliers = pl.score(model, odd, calibrate=normal.calibration, false_alarms=0.02)
    flagged = int(normal.flags.sum()), int(outliers.flags.sum())
    assert f"flagged: {flagged[0]} of 269 test images, {flagged[1]} of 269 with halves exchanged" in printed
    for kind, found in normal.against(outliers).items():
        assert re.search(rf"{kind} +AUROC {found.auroc:.3f} ", printed)
    most = np.argsort(-normal.scores, kind="stable")[:4]
    least = np.argsort(normal.scores, kind="stable")[:4]
    shown = np.concatenate([test[most], test[least]])
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(pl.grid(shown, 17, columns=4)))
