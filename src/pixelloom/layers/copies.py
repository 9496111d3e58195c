"""Copies of modules of any origin."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def copy_of(module: M) -> M:
    """A deep copy, also of a module with weights that are computed from others, such as by a hook of weight norm.

    Torch refuses to copy tensors that are not leaves of the graph; the copy has their values.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)
