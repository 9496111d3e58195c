"""What ``pixelloom doctor`` reports: versions, extras, threads, devices, folders, and the speed of a small network."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import pixelloom
from pixelloom.core.threads import fixed, quota, usable
from pixelloom.data.catalog import DATASETS
from pixelloom.data.io.download import data_roots
from pixelloom.data.pixels import to_model
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import choose_device, choose_precision
from pixelloom.models import pretrained
from pixelloom.models.registry import load_model

LIBRARIES = ("torch", "numpy", "lightning-fabric", "torchmetrics", "safetensors", "pydantic", "pillow")
EXTRAS: dict[str, tuple[str, ...]] = {
    # extra -> its packages, as in pyproject.toml
    "codec": ("constriction",),
    "data": ("pyarrow",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "studio": ("gradio",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
SPEED = "binarized-mnist"  # the model of the speed test
_BATCH = 16
_LEAST_FREE = 1e9  # bytes


def report(seconds: float = 10.0) -> dict[str, Any]:
    """All findings, as JSON values. ``seconds`` is the time of the speed test; 0 for none.

    The keys are "versions", "extras", "threads", "device", "data", "disk", "speed" and "problems", a list of sentences.
    """
    found: dict[str, Any] = {
        "versions": {
            "pixelloom": pixelloom.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES},
        },
        "extras": {name: all(_version(package) for package in packages) for name, packages in EXTRAS.items()},
        "threads": _threads(),
        "device": _device(),
        "data": _data(),
        "disk": {"folder": str(Path.cwd()), "free_bytes": shutil.disk_usage(Path.cwd()).free},
        "speed": _speed(seconds) if seconds else {},
    }
    return {**found, "problems": problems(found)}


def problems(found: Mapping[str, Any]) -> list[str]:
    """What keeps a machine from working well, each with what to do."""
    texts = []
    threads, disk = found["threads"], found["disk"]
    if threads["usable"] < threads["cores"] and not threads["omp_num_threads"]:
        texts.append(
            f"threads: {threads['usable']} of {threads['cores']} cores may be used, by affinity or the quota of a "
            "container; give the process more to train faster"
        )
    if disk["free_bytes"] < _LEAST_FREE:
        texts.append(f"disk: {disk['free_bytes'] / 1e9:.1f} GB are free in {disk['folder']}; a run may fill it")
    missing = [str(folder) for folder in found["data"]["missing_folders"]]
    if missing:
        texts.append(f"data: PIXELLOOM_DATA is {missing[0]}, which is no folder; create it or unset the variable")
    return texts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _threads() -> dict[str, Any]:
    """Cores, what limits them, and how many are used at most."""
    return {
        "cores": os.cpu_count() or 1,
        "usable": usable(),
        "quota": quota(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _device() -> dict[str, Any]:
    """The device and the precision that training chooses, and what there is."""
    config = TrainConfig()
    device = choose_device(config)
    return {
        "training": device,
        "precision": choose_precision(config, device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def _data() -> dict[str, Any]:
    """Folders that are searched for published data sets, and the sets found there."""
    roots = data_roots(None)
    there = sorted(name for name in DATASETS if any((root / name).is_dir() for root in roots))
    chosen = os.environ.get("PIXELLOOM_DATA")
    missing = [chosen] if chosen and not Path(chosen).expanduser().is_dir() else []
    return {"folders": [str(root) for root in roots], "found": there, "missing_folders": missing}


def _speed(seconds: float) -> dict[str, Any]:
    """Images per second of a training step's passes, of the fast sampler and of the plain loop, on the CPU.

    The plain loop runs one pass a pixel, and is timed on one image at a time.
    """
    model: Any = load_model(pretrained.folder(SPEED))
    levels = model.sample(_BATCH, seed=0)
    x = to_model(levels, model.spec.levels, model.description.scaling)

    def passes() -> None:
        model.head.nats(model.network(x), levels).mean().backward()

    def plain() -> None:
        model.sample(1, seed=0, method="plain")

    with fixed(usable()):
        trained = _rate(passes, seconds / 2) * _BATCH
    fast = _rate(lambda: model.sample(_BATCH, seed=0), seconds / 4) * _BATCH
    one = _rate(plain, seconds / 4)
    return {
        "network": f"{SPEED}, {model.parameters:,} parameters, batch {_BATCH}",
        "training_images_per_second": trained,
        "sampling_images_per_second": fast,
        "plain_loop_images_per_second": one,
    }


def _rate(call: Callable[[], object], seconds: float) -> float:
    """Calls per second, after a first one."""
    call()
    start, n = time.perf_counter(), 0
    while n == 0 or time.perf_counter() - start < seconds:
        call()
        n += 1
    return n / (time.perf_counter() - start)
