"""Random numbers as pure functions of a seed: named streams, and all NumPy generators of the project.

A draw depends on its key alone, such as (seed, stream, image index). A stream stands for one purpose; purposes that
shared a number would draw the same values. Results that must never change (data sets, permutations, binarization) use
the raw output of Philox, which NumPy keeps stable between versions, unlike the methods of ``numpy.random.Generator``.

    bits           Philox 4x64-10 (Salmon et al. 2011), seeded by SeedSequence(key), see `sequence`
    uniform        (raw >> 11) * 2^-53
    permutation    the stable argsort of n raw 64-bit draws
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pixelloom.core.types import ImageSpec

if TYPE_CHECKING:
    import torch


@unique
class Stream(IntEnum):
    """Purposes of random numbers. Results depend on these values: never change one, never use one twice."""

    SHUFFLE = 101  # order of the training images in an epoch
    TRAIN_BITS = 102  # dynamic binarization of training images
    EVAL_BITS = 103  # dynamic binarization of images that are evaluated
    STATIC_BITS = 201  # static binarization of the training split; 202 and 203 of the others
    STATIC_BITS_VAL = 202
    STATIC_BITS_TEST = 203
    SHAPES = 301  # synthetic data sets
    COLORED_DIGITS = 302
    MEMBERS = 303
    SCENE = 304
    GRAIN = 305
    REFERENCE = 311  # the held-out images that samples are compared with
    TRAINING = 312  # the training images that are searched for neighbors
    CONDITIONING = 313  # the images that conditioning is taken from
    CLASSES = 314  # the images whose classes condition samples
    BASELINE = 321  # the two halves of held-out images for the real-vs-real baseline
    NEIGHBORS = 322  # the held-out images whose neighbors are searched
    BOOTSTRAP = 323  # the images of each bootstrap mean of the likelihood
    STANDING = 331  # latent vectors for the standing statistics
    VALIDATION = 332  # latent vectors of the samples that select the best GAN checkpoint
    HIDDEN = 341  # masks of the validation images, with condition: mask
    HIDDEN_PIXELS = 342  # a share of hidden pixels
    RESAMPLING = 343  # of particles
    COMPLETION_ORDER = 344  # the pixel order that a completion is drawn in
    DETECTION = 345  # the images of each bootstrap of AUPR and FPR
    LABEL = 0x79  # class of a generated image
    LATENT = 0x7A  # latent vector of a generated image
    EXTRACTOR = 20_261  # weights of the random extractor
    ORDER_CHOICE = 0x6F7264  # the pixel order that an image is sampled in
    ORDERS = 0x6D616465  # the pixel orders


def sequence(*key: int) -> np.random.SeedSequence:
    """The seed sequence of non-negative integers; keys of one length have different entropy.

    SeedSequence joins the 32-bit words of integers without their number, so (5 + 7 * 2^32, 1) would be (5, 7, 1). A key
    with an integer of 2^32 or more is therefore written in n words an integer, low words first, followed by n and the
    key's length as a spawn key.
    """
    n = max((-(-int(value).bit_length() // 32) for value in key), default=0)
    if n <= 1:
        return np.random.SeedSequence(key)
    words = [value >> 32 * k & 0xFFFFFFFF for value in map(int, key) for k in range(n)]
    return np.random.SeedSequence(words, spawn_key=(n, len(key)))


def bits(*words: int) -> np.random.Philox:
    """A Philox bit generator seeded by non-negative integers."""
    return np.random.Philox(sequence(*words))


def permutation(n: int, *words: int) -> npt.NDArray[np.int64]:
    """A random permutation of 0 .. n - 1, int64 [n]: the stable argsort of n raw draws."""
    return np.argsort(np.asarray(bits(*words).random_raw(n)), kind="stable")


def uniform(n: int, *words: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64 [n], multiples of 2^-53."""
    return np.asarray((np.asarray(bits(*words).random_raw(n)) >> np.uint64(11)) * 2.0**-53)


def seed_of(*key: int) -> int:
    """A 64-bit seed from non-negative integers; similar keys give unrelated seeds."""
    return int(sequence(*key).generate_state(1, np.uint64)[0])


def image_noise(spec: ImageSpec, seed: int, first: int, n: int) -> torch.Tensor:
    """Uniform noise in [0, 1) for images first .. first + n - 1, float64 [n, C, H, W].

    The generator of an image is seeded by (seed, index), so an image does not depend on its batch or on the device.
    """
    import torch  # here, since data sets use this file, and an unknown name of one is a fast error

    return torch.from_numpy(uniform_per_image(spec.shape, seed, first, n))


def image_key(seed: int, index: int, *stream: Stream) -> np.random.SeedSequence:
    """The seed sequence of an image; different (seed, index, *stream) below 2^64 have different entropy.

    SeedSequence joins 32-bit words without their lengths, so (5 + 7 * 2^32, 0) would be (5, 7). Larger numbers are
    therefore four words, followed by a spawn key, which makes the sequence longer than any of small numbers.
    """
    if max(seed, index) < 1 << 32:
        return np.random.SeedSequence((seed, index, *stream))
    words = [word for number in (seed, index) for word in (number & 0xFFFFFFFF, number >> 32)]
    return np.random.SeedSequence(words, spawn_key=(1, *stream))


def uniform_per_image(
    shape: tuple[int, ...], seed: int, first: int, n: int, *stream: Stream
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) for images first .. first + n - 1, float64 [n, *shape].

    The generator (PCG64) of an image is seeded by :func:`image_key`.
    """
    draws = [
        np.random.Generator(np.random.PCG64(image_key(seed, index, *stream))).random(shape)
        for index in range(first, first + n)
    ]
    return np.stack(draws) if draws else np.empty((0, *shape))
