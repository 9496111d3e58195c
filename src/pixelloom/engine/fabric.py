"""Choice of device, number of processes and precision, for Lightning Fabric."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import distributed

from pixelloom.core.errors import UsageError
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.launch import PARENT, Launch, check_port, hidden, launch
from pixelloom.engine.memory import keep_freed_memory, out_of_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger("pixelloom")


def make_fabric(config: TrainConfig) -> Fabric:
    """Return a launched Fabric; with several devices, in every process.

    Under torchrun the number of processes is that of torchrun. Otherwise, with ``devices`` > 1, the running script is
    started again for each further device, so code before this call runs in every process. Variables that another
    launcher left in the environment are named in a warning and ignored.

    Raises:
        UsageError: if the requested device, number of devices, port or precision is not available.
    """
    from lightning_fabric import Fabric  # here, since it imports torch._dynamo and torchmetrics, which takes seconds
    from lightning_fabric.strategies.ddp import DDPStrategy

    from pixelloom.engine.environments import environment

    keep_freed_memory()
    device = choose_device(config)
    precision = choose_precision(config, device)
    started = launch(config.devices, config.nodes)
    devices, nodes = _processes(config, device, started)
    if config.batch % (devices * nodes * config.accumulate):
        raise UsageError(
            f"batch: {config.batch} images cannot be shared evenly by {devices * nodes} processes "
            f"times {config.accumulate} micro-batches; choose a multiple of {devices * nodes * config.accumulate}."
        )
    _check_can_relaunch(devices, started)
    if started.strays:
        _log.warning(
            "%s: left in the environment by a launcher that did not start this process; ignored, %d process%s",
            *(", ".join(started.strays), devices * nodes, "es train" if devices * nodes > 1 else " trains"),
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run logs the choice itself
    if device == "cuda":  # else a repeated or resumed run differs in the last bits
        torch.backends.cudnn.deterministic = True
    several = devices * nodes > 1 or started.by == "torchrun"
    if several and started.by == "alone":
        if started.rank == 0:
            check_port(nodes)
        os.environ[PARENT] = str(os.getpid())
    fabric: Fabric | None = None
    try:
        with hidden(started.strays):
            fabric = Fabric(
                accelerator=device,
                devices=devices,
                num_nodes=nodes,
                precision=precision,
                plugins=[environment(started, devices)],
                strategy=DDPStrategy(timeout=timedelta(seconds=config.timeout)) if several else "auto",
            )
            fabric.launch()
    except distributed.DistError as error:
        for process in getattr(fabric and fabric.strategy.launcher, "procs", []):
            process.kill()  # else it would wait for this one
        port = os.environ.get("MASTER_PORT", "unset")
        raise UsageError(f"the processes cannot connect on port {port} (MASTER_PORT): {error}") from error
    atexit.register(_end_children, getattr(fabric.strategy.launcher, "procs", []))
    return fabric


def describe(fabric: Fabric) -> str:
    """Return device, number of processes and threads, and precision: ``"cpu, 1 process, 2 threads, bf16-mixed"``."""
    name = torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else fabric.device.type
    threads = torch.get_num_threads()
    per_process = "" if fabric.device.type != "cpu" else f" {threads} thread{'s' if threads > 1 else ''},"
    processes = "1 process" if fabric.world_size == 1 else f"{fabric.world_size} processes"
    return f"{name}, {processes},{per_process} {fabric.strategy.precision.precision}"


Device = Literal["cpu", "cuda", "mps"]


def choose_device(config: TrainConfig) -> Device:
    """Return the requested device; "auto" is CUDA if available, else the CPU.

    Raises:
        UsageError: if the device is not available.
    """
    there: dict[Device, bool] = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if config.device == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there[config.device]:
        available = ", ".join(repr(device) for device, found in there.items() if found)
        name = config.device.upper()
        raise UsageError(
            f"device: {config.device!r} was requested, but there is no {name} device here; available: {available}."
        )
    return config.device


def choose_precision(config: TrainConfig, device: Device) -> Literal["32-true", "bf16-mixed"]:
    """Return the requested precision; "auto" is bf16 if the hardware supports it, since emulation is slow.

    On MPS it is fp32: bf16 has not been tried there.

    Weights, EMA and the optimizer's moments are fp32 in both cases. Raises UsageError if bf16 is not supported.
    """
    if device == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device == "mps":
        supported = False
    else:
        has = torch.cpu.get_capabilities()
        supported = bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    if config.precision == "bf16" and not supported:
        raise UsageError(f"precision: this {device} has no bf16 arithmetic; available: 'fp32' (or 'auto').")
    return "bf16-mixed" if supported and config.precision != "fp32" else "32-true"


@contextlib.contextmanager
def memory_explained(config: TrainConfig) -> Iterator[None]:
    """Turn an out-of-memory error of the GPU or the host into a UsageError that names the options to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise UsageError(
                f"batch: {config.batch} images (in {config.accumulate} micro-batches) do not fit into memory; lower "
                f"the batch, or raise accumulate, which needs less memory for the same result."
            ) from error
        raise


def _processes(config: TrainConfig, device: str, started: Launch) -> tuple[int, int]:
    """Return the number of processes on this machine, and the number of machines."""
    if started.by == "torchrun":
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    else:
        devices, nodes = config.devices, config.nodes
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device, os.cpu_count() or 1)
    if devices > available:
        unit = "CPU cores" if device == "cpu" else f"{device.upper()} devices"
        raise UsageError(f"devices: {devices} were requested, available here: {available} {unit}.")
    return devices, nodes


def _check_can_relaunch(devices: int, started: Launch) -> None:
    """Raise UsageError if more processes are needed and there is no script to start them from."""
    if (
        devices > 1
        and started.by == "alone"
        and sys.modules["__main__"].__spec__ is None
        and not Path(sys.argv[0]).is_file()
    ):
        raise UsageError("devices: several processes need a script or torchrun; an interactive interpreter is neither.")


def _end_children(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the other processes when this one ends, and kill those that hang."""
    for process in processes:
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
