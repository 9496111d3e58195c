"""Pretrained models of the package: one model folder each, with its model card (``benchmarks/zoo.py`` writes them)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHECKED = 200  # test images, evenly spaced, on which tests compute `Pretrained.check` again


@dataclass(frozen=True)
class Pretrained:
    """What is promised of a pretrained model.

    Attributes:
        sha256: of the contents of model.safetensors, which is also in the file.
        about: what it is, in a line.
        result: its likelihood on the test split, with the 95 % interval of the mean; of a GAN the share of samples that
            a classifier finds of their class, or KID. The model was selected without it.
        n: test images of the result, evenly spaced over the split; of a GAN samples.
        check: nats/image of :data:`CHECKED` test images, evenly spaced; of a GAN the KID of as many samples.
    """

    sha256: str
    about: str
    result: str
    n: int
    check: float


MODELS: dict[str, Pretrained] = {
    "binarized-mnist": Pretrained(
        sha256="bb161cded67967bd6a54484896e80b774311a7c70406952e7c046eb957fb2962",
        about="digits, static binarization",
        result="80.19 nats/image (95 %: 79.81 to 80.58)",
        n=10000,
        check=80.0108,
    ),
    "binarized-mnist-complete": Pretrained(
        sha256="bc7b44fa6fd6c76e46fa03e20ba7cde58bf99e319e0ca002e0321c45cfc0f07c",
        about="completes digits under any mask",
        result="81.57 nats/image (95 %: 81.18 to 81.96)",
        n=10000,
        check=81.3025,
    ),
    "fashion-mnist": Pretrained(
        sha256="e3609c720b6f1c767ab78af7cf0026696e1893a724ad6a9aa2a8b3b03653929b",
        about="clothes, 256 levels",
        result="2.806 bits/dim (95 %: 2.790 to 2.823)",
        n=10000,
        check=1502.5800,
    ),
    "cifar10": Pretrained(
        sha256="70669f50561b9753994b019610a4275dea06fc94f5b9b77c253bbd88f4768e13",
        about="color photographs, for compression: its samples are textures",
        result="3.584 bits/dim (95 %: 3.543 to 3.625)",
        n=1000,
        check=7665.8921,
    ),
    "mnist-classes": Pretrained(
        sha256="9a9b2e8c80504910c9b4a527aac3784b356a24a34d716fe6e5bb5929f962696e",
        about="digits by class, 256 levels",
        result="0.953 bits/dim (95 %: 0.941 to 0.965)",
        n=2000,
        check=519.3839,
    ),
    "colored-mnist": Pretrained(
        sha256="0c97314bc67ad644c80866480c1e2ce70216573db4353f05149ccb75a5439449",
        about="digits on patches of color, four levels a channel",
        result="0.189 bits/dim (95 %: 0.187 to 0.191)",
        n=2000,
        check=305.0854,
    ),
    "digits": Pretrained(
        sha256="0fc67eed44192a1435ac6dc56866c9cd3234b090d040d7da063497e7e2688b59",
        about="8x8 digits, what make demo trains",
        result="1.737 bits/dim (95 %: 1.705 to 1.768)",
        n=269,
        check=77.4142,
    ),
    "mnist-gray": Pretrained(
        sha256="bac4edf142eb77a3d92eefc2d37dbb4428bc470ba2e3c9c7ca6536d76e4d7c40",
        about="digits, 256 levels, the network of a tutorial",
        result="1.065 bits/dim (95 %: 1.053 to 1.078)",
        n=2000,
        check=579.4433,
    ),
    "mnist-gan": Pretrained(
        sha256="5384a8c3218eccc3584e1f73a05cf1f79d61af59f943c86e2324341b3c9dc25b",
        about="digits by class at 32x32, a GAN",
        result="98.5 % of their class (95 %: 97.8 to 98.9)",
        n=2000,
        check=-0.0079,
    ),
}


def folder(name: str) -> Path:
    """The model folder of a name in :data:`MODELS`."""
    return Path(__file__).parent / name
