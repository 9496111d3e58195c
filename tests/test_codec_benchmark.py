"""benchmarks/codec.py and benchmarks/local_codec.py on small models: sizes against bytes that are counted here."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixelloom as pl
from codec_models import images_of, model_of
from pixelloom.codec.export import lower
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import to_bytes
from scripts import script
from small_models import flat, save_run

pytestmark = pytest.mark.browser  # needs the extra bench
DIGITS = DataConfig(source="digits")


def run(benchmark: Any, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *options])
    threads = torch.get_num_threads()
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)


def test_the_codec_of_a_model_whose_bits_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    data = load(DIGITS)
    model = flat(data.spec, DIGITS.model_dump(mode="json"))
    save_run(model, Path("runs/flat"))
    codec = lower(model, data.train.take(np.arange(8))[0])
    codec.save("codec.safetensors")
    Path("out.json").write_text('{"other": 1}')
    benchmark = script("codec")
    options = ("--model", "runs/flat", "--export", "codec.safetensors", "-n", "20", "--timed", "2", "--out", "out.json")
    run(benchmark, monkeypatch, *options)
    found = json.loads(Path("out.json").read_text())
    assert found["other"] == 1
    found = found["flat"]
    levels = data.test.take(np.unique(np.linspace(0, len(data.test) - 1, 20).round().astype(int)))[0]
    assert found["n"] == 20
    assert found["float"] == pytest.approx(math.log2(17), abs=1e-5)  # all levels equally likely
    assert found["ideal"] == pytest.approx(math.log2(17), abs=1e-4)
    content = pl.compress(levels, codec, block=20)
    assert found["file"]["one_block"]["bytes"] == len(content)
    assert found["file"]["one_block"]["bits_per_dim"] == 8 * len(content) / levels.size
    assert found["export_bytes"] == Path("codec.safetensors").stat().st_size
    assert found["identity"] == codec.identity.hex()
    for name in ("png", "webp", "jpeg-xl-e7", "jpeg-xl-e9"):
        assert 0 < found["formats"][name]["mosaic"] < found["formats"][name]["image"]
    assert all(rate > 0 for rate in found["speed"].values())


@pytest.mark.parametrize("levels", [2, 17])
def test_formats_count_the_bytes_of_files_that_decode(levels: int) -> None:
    benchmark, spec = script("codec"), ImageSpec(1, 6, 5, levels)
    images = images_of(spec, 4)
    found = benchmark.formats(images, spec)
    pixels = to_bytes(images.numpy(), levels)[:, 0]
    size = sum(len(benchmark.png(image, levels == 2)) for image in pixels)
    assert found["png"]["image"] == 8 * size / images.numel()
    for image in pixels:
        with Image.open(io.BytesIO(benchmark.png(image, levels == 2))) as back:
            assert np.array_equal(np.asarray(back.convert("L")), image)
    assert benchmark.mosaic(pixels).shape == (12, 10)


def test_the_codec_of_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ImageSpec(3, 8, 8, 256)
    model = model_of("pixelcnn", spec, "logistics", channels=8, blocks=1, first_kernel=5, kernel=1)
    images = images_of(spec, 6)
    model.save("local")
    codec = lower(model, images)
    codec.save("codec.safetensors")
    benchmark = script("local_codec")
    photograph = images_of(ImageSpec(3, 11, 9, 256), 1)[0].permute(1, 2, 0).numpy()  # [C, H, W] -> [H, W, C]
    monkeypatch.setattr(benchmark, "PHOTOGRAPHS", {"noise": lambda: photograph})
    monkeypatch.setattr(benchmark, "test_images", lambda n: images[:n])
    run(
        benchmark, monkeypatch, "local", "--export", "codec.safetensors", "-n", "5", "--timed", "2", "--out", "out.json"
    )
    found = json.loads(Path("out.json").read_text())
    assert found["formats"]["noise"].keys() == found["formats"]["cifar10"].keys() - {"n"}
    exact = -float(model.log_prob(images[:5]).sum()) / (images[:5].numel() * math.log(2))
    assert found["cifar10"]["float"] == pytest.approx(exact, abs=1e-6)
    assert found["cifar10"]["file"]["one_block"] == 8 * len(pl.compress(images[:5], codec)) / images[:5].numel()
    one = torch.from_numpy(photograph).permute(2, 0, 1)[None].contiguous()  # [H, W, C] -> [1, C, H, W]
    content = pl.compress(one, codec.resized(11, 9))
    assert found["photographs"]["noise"]["file"] == 8 * len(content) / one.numel()
    assert found["photographs"]["export_bytes"] == Path("codec.safetensors").stat().st_size
    assert found["photographs"]["noise"]["speed"]["decode"] > 0
