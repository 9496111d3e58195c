# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A network of your own
#
# Any torch module that maps images [B, C, H, W] to parameters [B, outputs, H, W] can be checked for causality, and its
# receptive field can be drawn. This notebook writes a small network with the layers of the package, breaks it on
# purpose, and trains it with a plain loop.

# %%
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.viz.receptive_field import field_figure, field_kinds

torch.manual_seed(0)
LEVELS = 17


class Small(nn.Module):
    """Masked convolutions: mask A in the first layer, mask B after it, with skip connections."""

    def __init__(self, first: str = "A", channels: int = 32) -> None:
        super().__init__()
        self.first = MaskedConv2d(1, channels, 5, mask=first)
        self.layers = nn.ModuleList(MaskedConv2d(channels, channels, 3, mask="B") for _ in range(3))
        self.out = nn.Conv2d(channels, LEVELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 1, H, W] -> logits [B, levels, H, W]."""
        h = self.first(x)
        for layer in self.layers:
            h = h + layer(F.relu(h))
        return self.out(F.relu(h))


spec = pl.ImageSpec(channels=1, height=8, width=8, levels=LEVELS)
network = Small()
pl.assert_autoregressive(network, spec)  # by the layers' reads, and by the gradient

# %% [markdown]
# With mask B in the first layer a pixel sees its own value. The error names the layer.

# %%
try:
    pl.assert_autoregressive(Small(first="B"), spec)
except pl.NotAutoregressiveError as error:
    print(error)
else:
    raise AssertionError("this network sees its own pixel")

# %% [markdown]
# What the prediction at row 5, column 4 depends on:

# %%
field = pl.receptive_field(network, spec, (5, 4))  # bool [1, 8, 8]
assert not field[0, 5, 4]
assert not field[0, 6:].any()
field_figure(field_kinds(field, (5, 4)))

# %% [markdown]
# Train it on the embedded digits. The loss is the exact negative log-likelihood: one cross entropy over the levels at
# each pixel.

# %%
data = load(pl.DataConfig(source="digits"))
train = torch.from_numpy(data.train.take(np.arange(len(data.train)))[0])  # uint8 [N, 1, 8, 8]
test = torch.from_numpy(data.test.take(np.arange(len(data.test)))[0])


def bits(levels: torch.Tensor) -> torch.Tensor:
    """Bits/dim of a batch."""
    logits = network(levels / (LEVELS - 1))
    return F.cross_entropy(logits, levels[:, 0].long()) / math.log(2)


optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for _step in range(200):
    batch = train[torch.randint(len(train), (32,))]
    optimizer.zero_grad()
    bits(batch).backward()
    optimizer.step()
with torch.no_grad():
    found = bits(test).item()
print(f"{found:.3f} bits/dim on {len(test)} test images; uniform: {math.log2(LEVELS):.3f}")
assert found < 3

# %% [markdown]
# Sample with the plain loop: one pass for each pixel.

# %%
images = torch.zeros(16, 1, 8, 8)
with torch.no_grad():
    for row in range(8):
        for column in range(8):
            logits = network(images / (LEVELS - 1))[:, :, row, column]
            images[:, 0, row, column] = torch.distributions.Categorical(logits=logits).sample().float()
pl.grid(images.to(torch.uint8).numpy(), LEVELS, columns=8)

# %% [markdown]
# To train it with `pixelloom train`, sample it in fewer steps and save it as a model, add the network to the table of
# networks: see the page "Write a network".
