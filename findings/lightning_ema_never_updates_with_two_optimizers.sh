#!/usr/bin/env bash
# lightning 2.6.6: EMAWeightAveraging(update_every_n_steps=2) never updates the EMA of a GAN, and fit() then puts the
# initial weights in place of the trained ones.
#
# One would guess that the EMA is updated on every second batch. The callback tests the step number of the trainer, and
# that number grows by one with each optimizer.step(), of any optimizer (Lightning-AI/pytorch-lightning issue 17958 speaks
# of the number alone). With one step of the discriminator and one of the generator in a batch, the callback sees 1, 3, 5,
# ... at the ends of batches: no even interval ever divides them. In general, no interval that shares a factor with the
# number of optimizer steps in a batch does. At the end of fit() the callback copies the EMA to the model, so a training of
# any length returns the weights that it started from; the state_dict of checkpoints holds them too (the trained ones are
# under current_model_state). No warning. Intervals of 1, 3, 5 work, and so does every interval with one optimizer, so a
# test with a classifier does not show it.
#
# Seen (the same in two runs):
#     lightning 2.6.6, 20 batches
#     Regression interval 1: 20 updates, global_step 20, weights after fit() are trained
#     Regression interval 2: 10 updates, global_step 20, weights after fit() are trained
#     Regression interval 3:  7 updates, global_step 20, weights after fit() are trained
#     Regression interval 4:  5 updates, global_step 20, weights after fit() are trained
#     GAN        interval 1: 20 updates, global_step 40, weights after fit() are trained
#     GAN        interval 2:  0 updates, global_step 40, weights after fit() are THE INITIAL ONES
#     GAN        interval 3:  7 updates, global_step 40, weights after fit() are trained
#     GAN        interval 4:  0 updates, global_step 40, weights after fit() are THE INITIAL ONES
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 lightning==2.6.6
cd "$work"
"$work/venv/bin/python" - 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import logging
import sys
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging


class Counting(EMAWeightAveraging):
    updates = 0

    def should_update(self, step_idx=None, epoch_idx=None):
        found = super().should_update(step_idx=step_idx, epoch_idx=epoch_idx)
        self.updates += bool(found)
        return found


class GAN(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(2, 2), nn.Linear(2, 1)

    def training_step(self, batch, index):
        optimizer_d, optimizer_g = self.optimizers()
        fake = self.generator(batch[0])
        optimizer_d.zero_grad()
        self.manual_backward((self.discriminator(fake.detach()) - self.discriminator(batch[0])).mean())
        optimizer_d.step()
        optimizer_g.zero_grad()
        self.manual_backward(-self.discriminator(fake).mean())
        optimizer_g.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), 0.1) for net in (self.discriminator, self.generator)]


class Regression(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.generator = nn.Linear(2, 2)

    def training_step(self, batch, index):
        return (self.generator(batch[0]) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trained(kind, interval):
    torch.manual_seed(0)
    model, ema = kind(), Counting(decay=0.5, update_every_n_steps=interval)
    before = model.generator.weight.detach().clone()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(80, 2)), batch_size=4)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ema],
    )
    trainer.fit(model, data)
    return ema.updates, trainer.global_step, torch.equal(model.generator.weight, before)


print(f"lightning {L.__version__}, 20 batches")
found = {}
for kind in (Regression, GAN):
    for interval in (1, 2, 3, 4):
        found[kind.__name__, interval] = updates, steps, same = trained(kind, interval)
        print(f"{kind.__name__:10} interval {interval}: {updates:2} updates, global_step {steps}, "
              f"weights after fit() are {'THE INITIAL ONES' if same else 'trained'}")
expected = (
    all(not found["Regression", n][2] and found["Regression", n][0] > 0 for n in (1, 2, 3, 4))
    and all(found["GAN", n][0] > 0 and not found["GAN", n][2] for n in (1, 3))
    and all(found["GAN", n] == (0, 40, True) for n in (2, 4))
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
