"""Named runs: the networks of the tutorials as they were taught, and our own best small ones.

``pixelloom train RECIPE`` runs one; ``pixelloom config RECIPE`` prints it whole.
"""

from __future__ import annotations

from pixelloom.core.errors import UsageError, did_you_mean
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
from pixelloom.runs.config import GANRun, PixelRun, RunConfig
from pixelloom.runs.families import config_of, known_networks

_THIRD = OptimConfig(lr=4e-3, clip=1e-2)
# 1.2e-2 learns faster within an epoch, and diverges after it.
_MUON = OptimConfig(kind="muon", lr=5e-3, betas=(0.95, 0.99), warmup=2_000, decay="cosine", clip=0.1, weight_decay=0.1)
_MODERN = OptimConfig(lr=4e-3, betas=(0.9, 0.99), warmup=2_000, decay="cosine", clip=1.0)

# Of generators: Adam moves a weight by about its rate a step, and few pictures are few steps.
_QUICKER = OptimConfig(lr=2e-4, betas=(0.0, 0.9))

PIXEL_RUNS: dict[str, PixelRun] = {
    # Eight masked layers with batch normalization, 256-way softmax: the classic first PixelCNN tutorial.
    "mnist-gray": PixelRun(
        data=DataConfig(source="mnist"),
        model=PixelCNNConfig(block="plain", channels=64, blocks=7, kernel=7, norm="batch", bias=False),
        head=HeadConfig(kind="categorical"),
        inputs="unit",
        optim=OptimConfig(lr=1e-3),
        train=TrainConfig(batch=128, epochs=50),
    ),
    # The Keras example: residual bottlenecks on thresholded digits.
    "mnist-binary": PixelRun(
        data=DataConfig(source="mnist", binarize="threshold@0.33"),
        model=PixelCNNConfig(block="residual", channels=128, hidden=64, blocks=5, kernel=3, head_kernels=(3, 3)),
        head=HeadConfig(kind="bernoulli"),
        inputs="unit",
        optim=OptimConfig(lr=5e-4),
        train=TrainConfig(batch=128, epochs=50),
    ),
    # The third tutorial, after the Berkeley course on deep unsupervised learning: residual blocks 1x1, kxk, 1x1 that
    # are as wide inside as outside, a ReLU after each layer. Its ``--layers 5`` makes four blocks. It clips at 1 the
    # gradient of a sum over 100,000 values, so every one is clipped; our mean is clipped at 0.01 to that end.
    "mnist-binary-7x7": PixelRun(
        data=DataConfig(source="mnist", binarize="threshold@0.5"),
        model=PixelCNNConfig(block="residual", channels=64, hidden=64, blocks=4, kernel=7, head_kernels=(1,)),
        head=HeadConfig(kind="categorical"),
        inputs="standard",
        optim=_THIRD,
        train=TrainConfig(batch=128, epochs=10),
    ),
    # The same on colored digits, ``--layers 8 --filters 120``: four levels a channel, R before G before B.
    "colored-mnist": PixelRun(
        data=DataConfig(source="colored-mnist"),
        model=PixelCNNConfig(block="residual", channels=120, hidden=120, blocks=7, kernel=7, head_kernels=(1,)),
        head=HeadConfig(kind="categorical", channels="ordered"),
        inputs="standard",
        optim=_THIRD,
        train=TrainConfig(batch=128, epochs=10),
    ),
    # Six masked layers on 8-bit color. The tutorial has head.channels=independent: no order in a pixel.
    "rgb": PixelRun(
        data=DataConfig(source="cifar10"),
        model=PixelCNNConfig(block="plain", channels=64, blocks=5, kernel=7),
        head=HeadConfig(kind="categorical", channels="ordered"),
        inputs="unit",
        optim=OptimConfig(lr=1e-3),
        train=TrainConfig(batch=64, epochs=20),
    ),
    # Ours, for a first minute: small gated residual blocks on the embedded digits. One thread: on images this small a
    # second one gains a fifth on an idle machine and loses most of the speed on a busy one.
    "digits": PixelRun(
        data=DataConfig(source="digits"),
        model=PixelCNNConfig(
            block="gated", channels=64, hidden=32, blocks=4, first_kernel=5, kernel=3, positions=True, dropout=0.4
        ),
        optim=_MUON,
        train=TrainConfig(batch=32, epochs=100, ema=0.1, threads=1),
    ),
    # Ours, for the likelihood table.
    "binarized-mnist": PixelRun(
        data=DataConfig(source="binarized-mnist"),
        model=PixelCNNConfig(block="gated", channels=64, hidden=32, blocks=8, kernel=5, positions=True),
        optim=_MODERN,
        train=TrainConfig(batch=16, epochs=20, ema=0.1),
    ),
    # Ours, by Muon: the run that the package's model comes from.
    "best": PixelRun(
        data=DataConfig(source="binarized-mnist"),
        model=PixelCNNConfig(block="gated", channels=64, hidden=32, blocks=8, kernel=5, positions=True),
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=8, ema=0.1),
        validation_images=2_000,
    ),
    # The two stacks of the paper, small.
    "gated-pixelcnn": PixelRun(
        network="gated-pixelcnn",
        data=DataConfig(source="binarized-mnist"),
        model=GatedPixelCNNConfig(channels=32, layers=9, kernel=5, positions=True),
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=20, ema=0.1),
    ),
    # Ours, digits four times as wide as what is given: the picture to go by says most, so fewer layers do, and kernels
    # that reach two of its pixels to each side.
    "mnist-superres": PixelRun(
        network="gated-pixelcnn",
        data=DataConfig(source="mnist", levels=16),
        model=GatedPixelCNNConfig(channels=32, layers=6, kernel=5, positions=True, condition_kernels=(13, 3)),
        condition="downsample@4",
        optim=_MODERN.model_copy(update={"lr": 8e-3}),
        train=TrainConfig(batch=16, epochs=2, ema=0.1),
    ),
    # Ours: the LSTMs of PixelRNN with fewer layers than the paper's seven, and the neural density estimators that came
    # before them, NADE with the paper's hidden units and MADE with one for each pixel.
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
    # PixelCNN++ with a fifth of the paper's features and blocks.
    "pixelcnn-pp": PixelRun(
        network="pixelcnn-pp",
        data=DataConfig(source="binarized-mnist"),
        model=PixelCNNPlusPlusConfig(channels=32, blocks=1, dropout=0.0, weight_norm=False),
        optim=_MODERN,
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    # A sixth of the paper's blocks, an eighth of its features. At 5e-3 it gets worse after 4,500 images, and by Adam
    # at 4e-3 it diverges after 10,800.
    "pixelsnail": PixelRun(
        network="pixelsnail",
        data=DataConfig(source="binarized-mnist"),
        model=PixelSNAILConfig(channels=32, blocks=2, layers=4),
        optim=_MUON.model_copy(update={"lr": 2e-3}),
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    # A transformer learns what is near from scratch, which takes more images than ten minutes show on a CPU: so masked
    # kernels tell it, in front and within each layer, and attention looks back over the last rows only.
    "pixel-transformer": PixelRun(
        network="pixel-transformer",
        data=DataConfig(source="binarized-mnist"),
        model=PixelTransformerConfig(channels=64, layers=3, heads=4, hidden=128, first_kernel=7, kernel=3, window=3),
        optim=_MUON,
        train=TrainConfig(batch=16, epochs=10, ema=0.1),
    ),
    # The paper's own, for CIFAR-10: 54 million parameters, days on several GPUs.
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
    # GANs on 400 pictures, as the tutorial has them: no averaged weights, no augmentation.
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
    # The same networks with what came after, and steps twice as many and, of the generator, twice as large; as many
    # pictures, but counted: 300 epochs of a user's own thousands would be weeks.
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
    # Digits by class, with a quarter of the paper's features in the generator and half of them in the discriminator.
    "sngan": GANRun(
        network="sngan",
        data=DataConfig(source="mnist", size=32),
        model=SNGANConfig(latent=64, generator_width=64, discriminator_width=64),
        classes=True,
        loss="hinge",
        discriminator=OptimConfig(lr=1e-3, betas=(0.0, 0.9)),
        generator=_QUICKER,
        train=TrainConfig(batch=32, images=160_000, ema=0.1),
        samples=100,
    ),
    # The relativistic game with both penalties.
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
    """The run of that name, or a plain run of the network of that name.

    Raises:
        UsageError: if there is neither, with the nearest name.
    """
    if name in RECIPES:
        return RECIPES[name].model_copy(update={"recipe": name})
    networks = known_networks()
    if name in networks:
        return config_of(name).of_network(name)
    known = list(dict.fromkeys([*RECIPES, *networks]))
    raise UsageError(f"no recipe or network is called {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}")
