"""Export of a model as an ONNX file, by the exporter of torch that is based on ``torch.export``.

The file is checked before it takes its name: ONNX Runtime computes random inputs, and the outputs are those of torch.
The contract of inputs and outputs is in :mod:`pixelloom.onnx.graphs`.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pixelloom.core.atomic import write_bytes
from pixelloom.core.errors import ModelError, UsageError, shortened
from pixelloom.layers.compiled import uncompiled
from pixelloom.models.family import GenerativeModel
from pixelloom.onnx.graphs import BATCH, Graph, graph_of

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 20
"""Version of the operators. ONNX Runtime knows it since 1.17, of February 2024."""
TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and torch, relative to the largest absolute output.

Both compute in float32 and sum in different orders: a sum of n products differs by about sqrt(n) 2^-24 of the sum of
absolute values, which is 3e-6 for n = 2500. A wrong graph differs by far more than 1e-4.
"""
_LARGEST = 2**31 - 1  # bytes of a protocol buffer
_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_NOISY = ("torch.onnx", "onnxscript", "onnx_ir")  # loggers that report optimizations that they leave out


def export_onnx(model: GenerativeModel, path: Path | str, name: str = "", sha256: str = "") -> dict[str, str]:
    """Write a model as an ONNX file; returns its metadata.

    Args:
        model: a pixel model, or a GAN, of which the generator is exported.
        path: the file.
        name: name of the model in the metadata.
        sha256: digest of the model's file in the metadata, see :func:`pixelloom.engine.safetensors_io.digest_of`.

    Raises:
        UsageError: if the packages of the extra ``onnx`` are not installed.
        ModelError: naming what cannot be exported, or if the file cannot be written.
    """
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UsageError(f"export to ONNX needs {', '.join(missing)}: pip install 'pixelloom[onnx]'")
    graph = graph_of(model)
    size = sum(tensor.nbytes for tensor in uncompiled(model.network).state_dict().values())
    if size > _LARGEST:
        raise ModelError(f"{path}: the weights have {size} bytes; an ONNX file has at most {_LARGEST}")
    entries = {"format": "pixelloom 1", "name": name, **graph.about, "sha256": sha256}
    content = _described(_converted(graph), entries)
    _check(graph, content)
    write_bytes(Path(path), content)
    return entries


def _converted(graph: Graph) -> ModelProto:
    """The graph in ONNX, with a batch of any size.

    Raises:
        ModelError: for an operation that the exporter does not know; names it.
    """
    examples = tuple(each.example(2) for each in graph.inputs)
    batch = torch.export.Dim(BATCH, min=1, max=1 << 16)
    each = tuple({0: batch} for _ in examples)
    shapes = (each[0], each[1:]) if each[1:] else each  # the module takes the first input, and *more
    try:
        with torch.no_grad(), _quiet():
            # `strict`: len(x) of a tensor would otherwise be a constant, and the graph would have a fixed batch.
            program = torch.export.export(graph.module.eval(), examples, dynamic_shapes=shapes, strict=True)
            found = torch.onnx.export(
                program,
                examples,
                dynamo=True,
                input_names=[each.name for each in graph.inputs],
                output_names=[graph.output],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises errors of many types
        reason = shortened(str(error).strip().partition("\n")[0], 300)
        raise ModelError(
            f"export to ONNX: torch cannot export this network ({type(error).__name__}: {reason})"
        ) from error
    assert found is not None
    proto: ModelProto = found.model_proto
    return proto


def _described(model: ModelProto, entries: dict[str, str]) -> bytes:
    """The file: with metadata, and without source paths of the machine, which the exporter adds to every node."""
    del model.graph.value_info[:]  # shapes in between, which every runtime infers
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH  # torch names it s27, say
    for each in (model.graph, *model.graph.node, *model.graph.initializer, *model.functions):
        del each.metadata_props[:]
        each.doc_string = ""
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name = "pixelloom"
    model.producer_version = ""
    return bytes(model.SerializeToString(deterministic=True))


def _check(graph: Graph, content: bytes) -> None:
    """Check a file by ONNX, and its outputs by ONNX Runtime for two sizes of a batch.

    Raises:
        ModelError: if it is invalid, or an output differs from that of torch by more than :data:`TOLERANCE`.
    """
    import onnx
    import onnxruntime

    onnx.checker.check_model(content, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for n in (1, 3):
        given = [each.example(n, seed=n) for each in graph.inputs]
        with torch.no_grad():
            expected = graph.module(*given)
        named = {each.name: value.numpy() for each, value in zip(graph.inputs, given, strict=True)}
        found = torch.from_numpy(session.run(None, named)[0])
        difference = (found - expected).abs().max() if found.shape == expected.shape else torch.tensor(torch.inf)
        if not difference <= TOLERANCE * expected.abs().max():
            raise ModelError(
                f"export to ONNX: ONNX Runtime computes other outputs than torch, by {float(difference):.3g} where the "
                f"largest is {float(expected.abs().max()):.3g}"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without the messages of the exporter."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
