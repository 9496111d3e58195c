"""Modules that ``torch.compile`` has wrapped."""

from __future__ import annotations

from torch import nn


def uncompiled(network: nn.Module) -> nn.Module:
    """The module itself of one that ``torch.compile`` has wrapped."""
    inner = getattr(network, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else network
