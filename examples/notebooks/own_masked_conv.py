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
# # The masked convolution of a tutorial
#
# Many tutorials write a PixelCNN with a subclass of `nn.Conv2d` that multiplies its weights by a mask. This notebook
# writes such a class, proves that the network is autoregressive, trains it on the embedded digits, scores and samples
# it. The class declares nothing: its mask is observed.

# %%
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import pixelloom as pl

torch.manual_seed(0)
torch.set_num_threads(1)


class MaskedConv2d(nn.Conv2d):
    """A convolution that reads pixels above and to the left; with mask B also the pixel itself."""

    def __init__(self, kind: str, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        mask = torch.ones(kernel, kernel)
        mask[kernel // 2, kernel // 2 + (kind == "B") :] = 0
        mask[kernel // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]."""
        self.weight.data *= self.mask
        return super().forward(x)


class PixelCNN(nn.Module):
    """Mask A, residual layers of mask B, and a 1x1 convolution to the logits of each level."""

    def __init__(self, first: str = "A", channels: int = 24, levels: int = 17) -> None:
        super().__init__()
        self.first = MaskedConv2d(first, 1, channels, 5)
        self.layers = nn.ModuleList(MaskedConv2d("B", channels, channels, 3) for _ in range(2))
        self.out = nn.Conv2d(channels, levels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 1, H, W] -> logits [B, levels, H, W]."""
        h = self.first(x)
        for layer in self.layers:
            h = h + layer(F.relu(h))
        return self.out(F.relu(h))


# %% [markdown]
# ## Proof
#
# `assert_autoregressive` returns the checks that it made: "schedule" is the proof from what the layers read, "gradient"
# differentiates the network. With mask B in the first layer, the error names the layer and the offset.

# %%
spec = pl.ImageSpec(channels=1, height=8, width=8, levels=17)
assert pl.assert_autoregressive(PixelCNN(), spec) == ("schedule", "gradient")
try:
    pl.assert_autoregressive(PixelCNN("B"), spec)
except pl.NotAutoregressiveError as error:
    print(error)
else:
    raise AssertionError("this network reads the pixel that it predicts")

# %% [markdown]
# The pixels that the prediction at row 4, column 4 depends on (`#`):

# %%
field = pl.receptive_field(PixelCNN(), spec, (4, 4))[0]
print("\n".join(" ".join(".#"[int(seen)] for seen in row) for row in field))
assert not field[4, 4:].any()
assert not field[5:].any()

# %% [markdown]
# ## Train, score, sample
#
# The model scales level v of L to 2 v / (L - 1) - 1 before the network sees it (`inputs="symmetric"`), and takes the 17
# outputs per pixel as the logits of a categorical distribution.

# %%
model = pl.PixelModel.of(PixelCNN(), spec, "categorical")
folder = Path(tempfile.mkdtemp())
settings = {"optim.lr": 5e-3, "train.batch": 32, "train.threads": 1, "train.validate_every": 2048, "samples": 9}
before = pl.evaluate(model, "digits", limit=90).bits_per_dim
pl.train(model, data="digits", images=6144, out=folder / "run", overrides=settings)
after = pl.evaluate(model, "digits", limit=90).bits_per_dim
print(f"{before:.2f} bits/dim before, {after:.2f} after training")
assert after < 3 < before

# %% [markdown]
# The fast sampler takes fewer steps than there are pixels, and draws the images of the plain loop.

# %%
images = model.sample(16, seed=0)
print(f"{model.fast_sampler().steps} steps for {spec.height * spec.width} pixels")
assert torch.equal(images[:2], model.sample(2, seed=0, method="plain"))
pl.grid(images.numpy(), spec.levels, columns=8)

# %% [markdown]
# ## Save and load
#
# A model file holds weights, never code. So the network is given again.

# %%
model.save(folder / "model")
again = pl.load(folder / "model", network=PixelCNN)
assert torch.equal(again.sample(16, seed=0), images)
