"""Settings of training. Modules, losses and optimizers are part of the objective."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Budget, batch size, device, precision, and intervals of validation, checkpoints and samples.

    Of several budgets the one that is used up first ends the run; the default is one epoch. A budget of images or
    epochs makes a run reproducible to the bit with the same number of threads, which ``config.yaml`` records; a budget
    of minutes does not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(64, gt=0, description="images per step, the sum over all processes and micro-batches")
    accumulate: int = Field(1, gt=0, description="micro-batches per step and process, whose gradients are accumulated")
    epochs: float | None = Field(None, gt=0, description="budget in epochs; 1 if there is no other budget")
    images: int | None = Field(None, gt=0, description="budget in images")
    minutes: float | None = Field(None, gt=0, description="budget in minutes, with validation and sampling")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 if the hardware supports it")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda if available, else cpu")
    devices: int = Field(1, gt=0, description="processes on this machine, with one device each")
    nodes: int = Field(1, gt=0, description="machines, if a cluster starts the processes")
    threads: int | None = Field(None, gt=0, description="CPU threads per process; null: measured")
    timeout: float = Field(600, gt=0, description="seconds that a process waits for the others")
    workers: int = Field(0, ge=0, description="processes that load data")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of weights, data order and noise")
    ema: float | None = Field(None, gt=0, le=0.28, description="relative width (sigma_rel) of the EMA; null: no EMA")
    validate_every: int | None = Field(
        None, gt=0, description="images between validations; null: 20 per run, fewer if they take too long"
    )
    checkpoint_every: int | None = Field(
        None, gt=0, description="images between checkpoints; null: 20 per run, and one every 5 minutes"
    )
    sample_every: int | None = Field(None, gt=0, description="images between samples; null: 10 per run")
    logger: Literal["auto", "tensorboard", "trackio", "wandb", "none"] = Field(
        "auto", description="where curves are logged besides the run folder; auto: tensorboard if it is installed"
    )

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> TrainConfig:
        if self.batch % self.accumulate:  # so that the mean over micro-batches is the mean over the batch
            raise ValueError(f"batch={self.batch} cannot be split into accumulate={self.accumulate} equal parts")
        return self

    def progress(self, images: int, seconds: float, epoch: int, reserve: float = 0.0) -> float:
        """Return the share of the budget that is used, 1 or more at the end.

        Args:
            images: number of images so far.
            seconds: wall-clock time so far.
            epoch: number of images in an epoch.
            reserve: seconds of a budget in minutes for what follows the last step.
        """
        epochs = 1.0 if self.epochs is self.images is self.minutes is None else self.epochs
        shares = [
            images / (epochs * epoch) if epochs else 0.0,
            images / self.images if self.images else 0.0,
            seconds / max(60 * self.minutes - reserve, 30 * self.minutes) if self.minutes else 0.0,
        ]
        return max(shares)
