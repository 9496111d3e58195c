"""Train image generators from scratch, evaluate them, and sample from them fast.

    import pixelloom as pl

    model = pl.train("digits", minutes=1)      # or pl.load("runs/digits")
    images = model.sample(16, seed=0)          # uint8 levels [16, 1, 8, 8]
    nats = -model.log_prob(images)             # exact negative log-likelihood of each image
    pl.evaluate(model).bits_per_dim
    pl.score(model, other_images).p_values     # anomaly scores, calibrated on held-out images

For a network of your own, a torch module that maps images [B, C, H, W] to parameters [B, outputs, H, W]:

    spec = pl.ImageSpec(1, 28, 28, 256)
    pl.assert_autoregressive(network, spec)            # raises NotAutoregressiveError, which names the layer
    pl.receptive_field(network, spec, (14, 14))        # bool [1, 28, 28]: inputs of that prediction

Names are imported at first use, so that ``import pixelloom`` and ``pixelloom --help`` do not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixelloom.api import evaluate, explain, load, measure, score, train
    from pixelloom.codec.arrays import compress, decompress, open_pxl
    from pixelloom.codec.export import lower
    from pixelloom.core.errors import CodecError, DataError, ModelError, PixelloomError, UsageError
    from pixelloom.core.types import ImageSpec
    from pixelloom.data.config import DataConfig
    from pixelloom.metrics.likelihood import Likelihood
    from pixelloom.metrics.results import Result
    from pixelloom.models.parallel import parallel
    from pixelloom.models.pixel import PixelModel
    from pixelloom.onnx.export import export_onnx
    from pixelloom.runs.config import RunConfig
    from pixelloom.runs.recipes import recipe
    from pixelloom.sampling.fast.analysis import assert_autoregressive, receptive_field
    from pixelloom.sampling.fast.causality import NotAutoregressiveError
    from pixelloom.viz.grid import grid

__version__ = "0.2.0"

__all__ = [
    "CodecError",
    "DataConfig",
    "DataError",
    "ImageSpec",
    "Likelihood",
    "ModelError",
    "NotAutoregressiveError",
    "PixelModel",
    "PixelloomError",
    "Result",
    "RunConfig",
    "UsageError",
    "__version__",
    "assert_autoregressive",
    "compress",
    "decompress",
    "evaluate",
    "explain",
    "export_onnx",
    "grid",
    "load",
    "lower",
    "measure",
    "open_pxl",
    "parallel",
    "receptive_field",
    "recipe",
    "score",
    "train",
]

_HOMES = {
    "CodecError": "core.errors",
    "DataConfig": "data.config",
    "DataError": "core.errors",
    "Result": "metrics.results",
    "ImageSpec": "core.types",
    "Likelihood": "metrics.likelihood",
    "ModelError": "core.errors",
    "NotAutoregressiveError": "sampling.fast.causality",
    "PixelModel": "models.pixel",
    "PixelloomError": "core.errors",
    "RunConfig": "runs.config",
    "UsageError": "core.errors",
    "assert_autoregressive": "sampling.fast.analysis",
    "compress": "codec.arrays",
    "decompress": "codec.arrays",
    "evaluate": "api",
    "explain": "api",
    "export_onnx": "onnx.export",
    "grid": "viz.grid",
    "load": "api",
    "lower": "codec.export",
    "measure": "api",
    "open_pxl": "codec.arrays",
    "parallel": "models.parallel",
    "receptive_field": "sampling.fast.analysis",
    "recipe": "runs.recipes",
    "score": "api",
    "train": "api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'pixelloom' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"pixelloom.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
