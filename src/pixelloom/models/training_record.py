"""What a model was trained on, kept with its weights."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pixelloom.data.config import DataConfig


class ValidationRecord(BaseModel):
    """Metrics of the images that a model was selected on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics: dict[str, float] = {}
    n: int | None = Field(None, ge=0, description="number of images; None if unknown")
    split: Literal["validation", "training"] = "validation"


class TrainingRecord(BaseModel):
    """Data, settings and outcome of the run that trained a model; every field is optional."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = ""
    data: DataConfig | None = None
    path: str = Field("", description="absolute path of the data; empty for a named data set")
    content: dict[str, str] = Field({}, description="SHA-256 of the images of each split")
    counts: dict[str, int] = Field({}, description="images of each split")
    classes: tuple[str, ...] = Field((), description="names of the data's classes")
    note: str = Field("", description="remark of the data set")
    start: str = Field("", description="model whose weights the run started from, with their SHA-256")
    seed: int | None = None
    pixelloom: str = Field("", description="version")
    command: str = ""
    images: int | None = Field(None, ge=0, description="images seen")
    epochs: float | None = Field(None, ge=0)
    minutes: float | None = Field(None, ge=0)
    date: datetime.date | None = None
    validation: ValidationRecord = ValidationRecord()

    @property
    def splits(self) -> str:
        """The sizes of the splits in words."""
        return ", ".join(f"{name} {self.counts[name]:,}" for name in ("train", "val", "test") if name in self.counts)
