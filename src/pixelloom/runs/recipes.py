"""Recipes: named runs of the tutorials' networks, and small runs of our own for each network.

``pixelloom train RECIPE`` runs one; ``pixelloom config RECIPE`` prints all of its settings.
"""

from __future__ import annotations

from pixelloom.data.catalog import DataConfig
from pixelloom.engine.config import TrainConfig
from pixelloom.heads.config import HeadConfig
from pixelloom.networks.gan.sngan import SNGANConfig
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.networks.pixel.made import MADEConfig
from pixelloom.networks.pixel.nade import NADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlusConfig
from pixelloom.networks.pixel.pixelrnn import DiagonalBiLSTMConfig, RowLSTMConfig
from pixelloom.networks.pixel.pixelsnail import PixelSNAILConfig
from pixelloom.networks.pixel.transformer import PixelTransformerConfig
from pixelloom.objectives.config import OptimConfig, Penalties, Policy
from pixelloom.runs.config import OWN, GANRun, PixelRun, RunConfig
from pixelloom.runs.families import config_of, known_networks
from pixelloom.runs.names import unknown_name

_THIRD = OptimConfig(lr=4e-3, clip=1e-2)
# A learning rate of 1.2e-2 is better after one epoch, and diverges later.
_MUON = OptimConfig(kind="muon", lr=5e-3, betas=(0.95, 0.99), warmup=2_000, decay="cosine", clip=0.1, weight_decay=0.1)
_MODERN = OptimConfig(lr=4e-3, betas=(0.9, 0.99), warmup=2_000, decay="cosine", clip=1.0)

# For generators: Adam moves a weight by about its learning rate per step, and small data give few steps.
_QUICKER = OptimConfig(lr=2e-4, betas=(0.0, 0.9))
_ANNEALED = OptimConfig(lr=4e-4, betas=(0.0, 0.99), decay="cosine")

PIXEL_RUNS: dict[str, PixelRun] = {
    # The first PixelCNN tutorial: eight masked layers with batch norm, 256-way softmax.
    "mnist-gray": PixelRun(
        data=DataConfig(source="mnist"),
        model=PixelCNNConfig(block="plain", channels=64, blocks=7, kernel=7, norm="batch", bias=False),
        head=HeadConfig(kind="categorical"),
        inputs="unit",
        optim=OptimConfig(lr=1e-3),
        train=TrainConfig(batch=128, epochs=50),
    ),
    # The Keras example: residual bottleneck blocks on thresholded digits.
    "mnist-binary": PixelRun(
        data=DataConfig(source="mnist", binarize="threshold@0.33"),
        model=PixelCNNConfig(block="residual", channels=128, hidden=64, blocks=5, kernel=3, head_kernels=(3, 3)),
        head=HeadConfig(kind="bernoulli"),
        inputs="unit",
        optim=OptimConfig(lr=5e-4),
        train=TrainConfig(batch=128, epochs=50),
    ),
    # The third tutorial, after the Berkeley course on deep unsupervised learning: residual blocks 1x1, kxk, 1x1 of
    # constant width, with a ReLU after each layer. Its ``--layers 5`` gives four blocks. It clips the gradient of a sum
    # over 100,000 values at 1, that is, always; the gradient of our mean is clipped at 0.01 for the same effect.
    "mnist-binary-7x7": PixelRun(
        data=DataConfig(source="mnist", binarize="threshold@0.5"),
        model=PixelCNNConfig(block="residual", channels=64, hidden=64, blocks=4, kernel=7, head_kernels=(1,)),
        head=HeadConfig(kind="categorical"),
        inputs="standard",
        optim=_THIRD,
        train=TrainConfig(batch=128, epochs=10),
    ),
    # The same on colored digits, ``--layers 8 --filters 120``: four levels per channel, R before G before B.
    "colored-mnist": PixelRun(
        data=DataConfig(source="colored-mnist"),
        model=PixelCNNConfig(block="residual", channels=120, hidden=120, blocks=7, kernel=7, head_kernels=(1,)),
        head=HeadConfig(kind="categorical", channels="ordered"),
        inputs="standard",
        optim=_THIRD,
        train=TrainConfig(batch=128, epochs=10),
    ),
    # Six masked layers on 8-bit color. The tutorial has head.channels=independent.
    "rgb": PixelRun(
        data=DataConfig(source="cifar10"),
        model=PixelCNNConfig(block="plain", channels=64, blocks=5, kernel=7),
        head=HeadConfig(kind="categorical", channels="ordered"),
        inputs="unit",
        optim=OptimConfig(lr=1e-3),
        train=TrainConfig(batch=64, epochs=20),
    ),
    # For a first minute: small gated residual blocks on the embedded digits. One thread: on such small images a second
    # one is 20 % faster on an idle machine, and several times slower on a busy one.
    "digits": PixelRun(
        data=DataConfig(source="digits"),
        model=PixelCNNConfig(
            block="gated", channels=64, hidden=32, blocks=4, first_kernel=5, kernel=3, positions=True, dropout=0.4
        ),
        optim=_MUON,
        train=TrainConfig(batch=32, epochs=100, ema=0.1, threads=1),
    ),
    # For the likelihood table.
    "binarized-mnist": PixelRun(
        data=DataConfig(source="binarized-mnist"),
        model=PixelCNNConfig(block="gated", channels=64, hidden=32, blocks=8, kernel=5, positions=True),
        optim=_MODERN,
        train=TrainConfig(batch=16, epochs=20, ema=0.1),
    ),
    # With Muon: the run of the pretrained model.
    "best": PixelRun(
        data=DataConfig(source="binarized-mnist"),
        model=PixelCNNConfig(block="gated", channels=64, hidden=32, blocks=8, kernel=5, positions=True),
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=8, ema=0.1),
        validation_images=2_000,
    ),
    # Both stacks of the paper, with fewer features.
    "gated-pixelcnn": PixelRun(
        network="gated-pixelcnn",
        data=DataConfig(source="binarized-mnist"),
        model=GatedPixelCNNConfig(channels=32, layers=9, kernel=5, positions=True),
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=20, ema=0.1),
    ),
    # Super-resolution by 4: the conditioning image determines most of the digit, so few layers suffice; kernels reach
    # two of its pixels to each side.
    "mnist-superres": PixelRun(
        network="gated-pixelcnn",
        data=DataConfig(source="mnist", levels=16),
        model=GatedPixelCNNConfig(channels=32, layers=6, kernel=5, positions=True, condition_kernels=(13, 3)),
        condition="downsample@4",
        optim=_MODERN.model_copy(update={"lr": 8e-3}),
        train=TrainConfig(batch=16, epochs=2, ema=0.1),
    ),
    # Completion of any region: a U-Net over the known pixels conditions both stacks.
    "mnist-complete": PixelRun(
        network="gated-pixelcnn",
        data=DataConfig(source="binarized-mnist"),
        model=GatedPixelCNNConfig(channels=32, layers=6, kernel=5, positions=True),
        condition="mask",
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
        validation_images=2_000,
    ),
    # The same for images of one's own: pixelloom train completion --data DIR --size 32.
    "completion": PixelRun(
        network="gated-pixelcnn",
        data=DataConfig(source="cifar10"),
        model=GatedPixelCNNConfig(channels=48, layers=6, kernel=5, positions=True),
        head=HeadConfig(kind="logistics", mixtures=5),
        condition="mask",
        optim=_MODERN,
        train=TrainConfig(batch=32, epochs=10, ema=0.1),
    ),
    # The LSTMs of PixelRNN with fewer layers than the paper's seven; NADE with the hidden units of its paper, and MADE
    # with one per pixel.
    "row-lstm": PixelRun(
        network="row-lstm",
        data=DataConfig(source="binarized-mnist"),
        model=RowLSTMConfig(hidden=24, layers=4, positions=True),
        optim=_MODERN.model_copy(update={"lr": 8e-3}),
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    "diagonal-bilstm": PixelRun(
        network="diagonal-bilstm",
        data=DataConfig(source="binarized-mnist"),
        model=DiagonalBiLSTMConfig(hidden=24, layers=3, positions=True),
        optim=_MODERN.model_copy(update={"lr": 8e-3}),
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    "nade": PixelRun(
        network="nade",
        data=DataConfig(source="binarized-mnist"),
        model=NADEConfig(hidden=500),
        inputs="unit",
        optim=_MODERN.model_copy(update={"lr": 3e-2}),
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    "made": PixelRun(
        network="made",
        data=DataConfig(source="binarized-mnist"),
        model=MADEConfig(hidden=1, layers=1, direct=True),
        inputs="unit",
        optim=_MODERN.model_copy(update={"lr": 5e-3}),
        train=TrainConfig(batch=64, epochs=10, ema=0.1),
    ),
    # A fifth of the paper's features and blocks.
    "pixelcnn-pp": PixelRun(
        network="pixelcnn-pp",
        data=DataConfig(source="binarized-mnist"),
        model=PixelCNNPlusPlusConfig(channels=32, blocks=1, dropout=0.0, weight_norm=False),
        optim=_MODERN,
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    # A sixth of the paper's blocks, an eighth of its features. A learning rate of 5e-3 gets worse after 4,500
    # images, and Adam with 4e-3 diverges after 10,800.
    "pixelsnail": PixelRun(
        network="pixelsnail",
        data=DataConfig(source="binarized-mnist"),
        model=PixelSNAILConfig(channels=32, blocks=2, layers=4),
        optim=_MUON.model_copy(update={"lr": 2e-3}),
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    # A transformer has no bias for locality, and learning it takes more images than a CPU sees in ten minutes: hence
    # masked convolutions before and within each layer, and attention within a window of the last rows.
    "pixel-transformer": PixelRun(
        network="pixel-transformer",
        data=DataConfig(source="binarized-mnist"),
        model=PixelTransformerConfig(channels=64, layers=3, heads=4, hidden=128, first_kernel=7, kernel=3, window=3),
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    # For lossless compression of images of any size (Zhang et al. 2021, "On the Out-of-distribution Generalization of
    # Probabilistic Image Modelling"): each pixel is predicted from 24 neighbors, by the same weights at every position.
    "local": PixelRun(
        data=DataConfig(source="cifar10"),
        model=PixelCNNConfig(block="gated", channels=128, hidden=64, blocks=3, first_kernel=7, kernel=1),
        head=HeadConfig(kind="logistics", mixtures=10),
        optim=_MUON,
        train=TrainConfig(batch=8, epochs=6, ema=0.1),
    ),
    # The paper's network for CIFAR-10: 54 million parameters, days on several GPUs.
    "pixelcnn-pp-cifar10": PixelRun(
        network="pixelcnn-pp",
        data=DataConfig(source="cifar10"),
        model=PixelCNNPlusPlusConfig(),
        head=HeadConfig(kind="logistics", mixtures=10),
        optim=OptimConfig(lr=1e-3, betas=(0.95, 0.9995)),
        train=TrainConfig(batch=128, epochs=500, ema=0.05),
    ),
}

GAN_RECIPES: dict[str, GANRun] = {
    # The tutorial's GANs on 400 images: no EMA, no augmentation.
    "dcgan-tutorial": GANRun(
        network="dcgan",
        data=DataConfig(source="sevens-and-eights"),
        augment=Policy(),
        train=TrainConfig(batch=64, epochs=300),
    ),
    "sagan-tutorial": GANRun(
        network="sagan",
        data=DataConfig(source="sevens-and-eights"),
        loss="hinge",
        augment=Policy(),
        train=TrainConfig(batch=64, epochs=300),
    ),
    # The same networks with EMA and augmentation, twice as many steps, and twice the generator's learning rate.
    # The budget is in images: 300 epochs of a large data set would take weeks.
    "dcgan": GANRun(
        network="dcgan",
        data=DataConfig(source="sevens-and-eights"),
        generator=_QUICKER,
        train=TrainConfig(batch=32, images=120_000, ema=0.1),
    ),
    "sagan": GANRun(
        network="sagan",
        data=DataConfig(source="sevens-and-eights"),
        loss="hinge",
        generator=_QUICKER,
        train=TrainConfig(batch=32, images=120_000, ema=0.1),
    ),
    # Class-conditional digits: the run of the pretrained model mnist-gan. Without the deviation, and with the hinge
    # loss, the digits of a class vary too little.
    "sngan": GANRun(
        network="sngan",
        data=DataConfig(source="mnist", size=32),
        model=SNGANConfig(latent=32, generator_width=16, discriminator_width=32, doubling=True, deviation=True),
        classes=True,
        loss="relativistic",
        penalties=Penalties(r1=0.1, r2=0.1, lazy_interval=8),
        discriminator=_ANNEALED,
        generator=_ANNEALED,
        train=TrainConfig(batch=64, images=600_000, ema=0.1),
        validation_images=2_000,
        samples=100,
    ),
    # The relativistic loss with both penalties.
    "r3gan": GANRun(
        network="r3gan",
        data=DataConfig(source="shapes"),
        loss="relativistic",
        penalties=Penalties(r1=1.0, r2=1.0),
        discriminator=OptimConfig(lr=1e-3, betas=(0.0, 0.99)),
        generator=OptimConfig(lr=1e-3, betas=(0.0, 0.99)),
        train=TrainConfig(batch=32, images=120_000, ema=0.1),
    ),
}

RECIPES: dict[str, RunConfig] = {**PIXEL_RUNS, **GAN_RECIPES}


def recipe(name: str) -> RunConfig:
    """The recipe of a name, or the default run of a network.

    Raises:
        UsageError: for an unknown name; the message suggests the nearest one.
    """
    if name in RECIPES:
        return RECIPES[name].model_copy(update={"recipe": name})
    networks = known_networks()
    if name in (*networks, OWN):
        return config_of(name).of_network(name)
    raise unknown_name(name, [*RECIPES, *networks])
