"""A third family of models, in two entries: images of one gray level, which is a parameter that is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from PIL.Image import Image
from pydantic import BaseModel
from torch import Tensor, nn

from pixelloom.core.types import Batch
from pixelloom.data.catalog import Dataset
from pixelloom.data.pixels import Scaling, from_model, to_model
from pixelloom.engine.safetensors_io import save_described
from pixelloom.models.description import CONFIG, WEIGHTS, Description, rebuild
from pixelloom.models.family import Ability, Family, ModelInfo, SamplingCost
from pixelloom.models.training_record import TrainingRecord
from pixelloom.objectives.base import Monitor, Objective, Phase
from pixelloom.objectives.config import OptimConfig
from pixelloom.runs.config import RunConfig
from pixelloom.runs.families import RunFamily
from pixelloom.runs.family import Setup, spaced_images
from pixelloom.viz.grid import grid


class GrayConfig(BaseModel):
    start: float = 0.0


class Gray(nn.Module):
    """ "gray": one level for every pixel."""

    def __init__(self, config: GrayConfig) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(config.start))


NETWORKS: dict[str, tuple[type[BaseModel], Callable[..., nn.Module]]] = {"gray": (GrayConfig, Gray)}


class ToyDescription(Description):
    table = NETWORKS

    family: Literal["toy"] = "toy"


class ToyModel:
    """Every image has the same level everywhere, brighter by ``seed`` levels."""

    condition = None

    def __init__(self, network: nn.Module, description: ToyDescription) -> None:
        self.network, self.description, self.spec = network, description, description.image

    @classmethod
    def build(cls, description: ToyDescription) -> ToyModel:
        return cls(Gray(description.model), description)

    @property
    def can(self) -> frozenset[Ability]:
        return frozenset({"truncation"})

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def parameters(self) -> int:
        return 1

    def to(self, device: str | torch.device) -> ToyModel:
        return self

    @torch.no_grad()
    def sample(
        self, n: int, *, seed: int = 0, first: int = 0, labels: Any = None, batch: int = 64, threads: Any = None,
        on_step: Any = None, truncation: float | None = None,
    ) -> Tensor:  # fmt: skip
        level = self.network.get_parameter("level").clamp(-1, 1).expand(n, *self.spec.shape)
        images = from_model(level, self.spec.levels, Scaling.symmetric()) + seed
        for start in range(0, n, batch):
            if on_step is not None:
                on_step(1, 1, images[start : start + batch])
        return images

    def save(self, folder: Path) -> str:
        about = self.description.model_dump(mode="json")
        return save_described(folder / WEIGHTS, folder / CONFIG, self.network.state_dict(), about)


TOY = Family(
    name="toy",
    title="a toy",
    load=lambda folder: rebuild(folder / WEIGHTS, ToyDescription, ToyModel.build),
    lacks={"temperature": "a toy has no temperature", "likelihood": "a toy has no likelihood"},
    sampling_cost=lambda model, n, batch, options: SamplingCost(batch or n, "no work"),
    info=lambda model: ModelInfo({"level": f"{model.network.level.item():.2f}"}, {"toy_values": [1]}),
    card_rows=lambda model: ["| toy | yes |"],
    card_usage="Play with it.\n",
)


class ToyRun(RunConfig):
    """A run of a toy."""

    network: str = "gray"
    rate: float = 0.1

    @classmethod
    def networks(cls) -> Mapping[str, tuple[Any, ...]]:
        return NETWORKS

    @classmethod
    def of_network(cls, name: str) -> ToyRun:
        return cls(recipe=name, network=name)


class ToySetup(Setup[ToyRun, ToyModel]):
    def build(self) -> ToyModel:
        about = ToyDescription(
            network=self.config.network, model=self.config.model, image=self.data.spec, training=self.record()
        )
        return ToyModel.build(about)

    def objective(self) -> Objective:
        network = self.model.network

        def distance(module: nn.Module, images: Tensor) -> Tensor:
            x = to_model(images, self.data.spec.levels, Scaling.symmetric())
            return (x - module.get_parameter("level")).square().mean()

        def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            value = distance(network, batch.images)
            return value, {"loss": value.detach()}

        def measure(module: nn.Module) -> dict[str, float]:
            return {"distance": float(distance(module, spaced_images(self.data, "val", None)))}

        phase = Phase("toy", network, OptimConfig(lr=self.config.rate), loss)
        return Objective((phase,), {"network": network}, "network", Monitor("distance", measure))

    def model_of(self, network: nn.Module) -> ToyModel:
        return ToyModel(network, self.model.description)

    def snapshot(self, network: nn.Module, record: TrainingRecord) -> ToyModel:
        return ToyModel(network, self.model.description.model_copy(update={"training": record}))

    def sample_grid(self, model: ToyModel, n: int, on_step: Any = None) -> Image:
        return grid(model.sample(n).numpy(), model.spec.levels)


def _setup(config: Any, data: Dataset) -> Setup[Any, Any]:
    return ToySetup(config, data)


TOY_RUNS = RunFamily("toy", ToyRun, _setup)
