"""What a user can set about training itself. What is trained, and by which optimizer, comes with the objective."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainConfig(BaseModel):
    """Budgets, batch, device, precision and how often to look.

    Of several budgets the one that is used up first ends the run; with none given, a run lasts one epoch. A run that
    is counted in images or epochs can be repeated bit for bit with the same number of threads, which its own
    ``config.yaml`` has; one in minutes follows the clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(64, gt=0, description="images per round, over all processes and micro-batches together")
    accumulate: int = Field(1, gt=0, description="micro-batches that a process splits its share of the batch into")
    epochs: float | None = Field(None, gt=0)
    images: int | None = Field(None, gt=0)
    minutes: float | None = Field(None, gt=0, description="wall-clock time, validation and sampling included")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, gt=0, description="processes on this machine, one device each")
    nodes: int = Field(1, gt=0, description="machines, where a cluster starts the processes")
    threads: int | None = Field(None, gt=0, description="CPU threads of a process; None measures")
    timeout: float = Field(600, gt=0, description="seconds until a process gives up waiting for the others")
    workers: int = Field(0, ge=0, description="processes that read data ahead")
    seed: int = Field(0, ge=0)
    ema: float | None = Field(None, gt=0, le=0.28, description="relative width of the weights' average; None is off")
    validate_every: int | None = Field(None, gt=0, description="images; None is 20 times a run")
    checkpoint_every: int | None = Field(None, gt=0, description="images; None is 20 times a run and every 5 minutes")
    sample_every: int | None = Field(None, gt=0, description="images; None is 10 times a run")

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> TrainConfig:
        if self.batch % self.accumulate:  # the mean of the micro-batches' means must be the batch's mean
            raise ValueError(f"batch={self.batch} cannot be split into accumulate={self.accumulate} equal parts")
        return self

    def progress(self, images: int, seconds: float, epoch: int) -> float:
        """The share of the budget used after ``images`` and ``seconds``, 1 or more at the end.

        ``epoch`` is the number of images in one epoch.
        """
        epochs = 1.0 if self.epochs is self.images is self.minutes is None else self.epochs
        shares = [
            images / (epochs * epoch) if epochs else 0.0,
            images / self.images if self.images else 0.0,
            seconds / (60 * self.minutes) if self.minutes else 0.0,
        ]
        return max(shares)
