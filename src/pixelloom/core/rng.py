"""Random numbers as functions of a seed: named streams, and the few ways in which all of the project draws.

What is drawn depends on (seed, stream, keys) alone. A stream is one purpose; two purposes never share a number, or
their draws would be the same ones. Raw bits of Philox are used where a result must never change (data sets, orders,
splits): numpy keeps these between its versions, but not the outputs of its higher-level methods.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np
import numpy.typing as npt
import torch

from pixelloom.core.types import ImageSpec


@unique
class Stream(IntEnum):
    """What random numbers are drawn for. The numbers are part of every result: never change one, never use one twice."""

    SHUFFLE = 101  # order of the training images in an epoch
    TRAIN_BITS = 102  # dynamic binarization of training images
    EVAL_BITS = 103  # dynamic binarization of images that are evaluated
    STATIC_BITS = 201  # static binarization of the training split; 202 and 203 of the others
    STATIC_BITS_VAL = 202
    STATIC_BITS_TEST = 203
    SHAPES = 301  # data sets that are synthesized
    COLORED_DIGITS = 302
    MEMBERS = 303
    SCENE = 304
    GRAIN = 305
    REFERENCE = 311  # which held-out images samples are compared with
    TRAINING = 312  # which training images neighbors are sought among
    CONDITIONING = 313  # which images are conditioned on
    CLASSES = 314  # whose classes samples take
    BASELINE = 321  # how held-out images are cut in two for the real-vs-real baseline
    NEIGHBORS = 322  # which held-out images have their neighbors sought
    STANDING = 331  # noise that standing statistics are measured on
    VALIDATION = 332  # noise of the samples that choose a GAN
    LABEL = 0x79  # class of a generated image
    LATENT = 0x7A  # latent vector of a generated image
    EXTRACTOR = 20_261  # weights of the random extractor
    ORDER_CHOICE = 0x6F7264  # which order of the pixels an image is drawn in
    ORDERS = 0x6D616465  # the orders of the pixels


def bits(*words: int) -> np.random.Philox:
    """A counter-based generator that is a function of some non-negative integers."""
    return np.random.Philox(np.random.SeedSequence(words))


def permutation(n: int, *words: int) -> npt.NDArray[np.int64]:
    """A random order of 0 .. n - 1, int64 [n], by sorting raw draws: the same in every version of numpy."""
    return np.argsort(np.asarray(bits(*words).random_raw(n)), kind="stable")


def uniform(n: int, *words: int) -> npt.NDArray[np.float64]:
    """n numbers in [0, 1), multiples of 2^-53."""
    return np.asarray((np.asarray(bits(*words).random_raw(n)) >> np.uint64(11)) * 2.0**-53)


def seed_of(*key: int) -> int:
    """A 64-bit seed for a tuple of non-negative integers; near keys give unrelated seeds."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def image_noise(spec: ImageSpec, seed: int, first: int, n: int) -> torch.Tensor:
    """Uniform noise in [0, 1) for images first .. first + n - 1, float64 [n, C, H, W].

    Each image has a generator of its own, seeded by (seed, image index): a picture does not depend on the batch it was
    drawn in, nor on the device.
    """
    draws = [np.random.default_rng((seed, index)).random(spec.shape) for index in range(first, first + n)]
    return torch.from_numpy(np.stack(draws))
