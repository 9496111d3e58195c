#!/usr/bin/env bash
# constriction 0.5.0: an AnsCoder stores any number of symbols 0 in zero bits, however improbable they are under the model.
#
# One would guess that n symbols of probability p take about n log2(1/p) bits, give or take a word, and that no lossless
# coder beats that. A new AnsCoder has state 0, and the interval of symbol 0 begins at 0, so coding symbol 0 maps state 0
# to state 0: 100,000 pixels of level 0 under a uniform model of 256 levels take 0 bits, not 800,000, and they decode
# rightly, since an empty coder decodes to 0s for ever. Only a first nonzero symbol starts the meter. encode_reverse() starts
# at the end of the message, so what is free is the black bottom rows of an image: for MNIST-like images, coded one by one,
# the measured bits/dim lies below the entropy of the model, and a comparison of coded length with log-likelihood "wins".
# The RangeEncoder of the same package pays the full price. (The number of symbols is not in the stream; that is why the
# information can be absent.)
#
# Seen (the same in two runs):
#     constriction 0.5.0
#     100,000 zeros, uniform model     -log2 p: 800,000 bits; ANS       0; range coder 800,032
#     100,000 ones, uniform model      -log2 p: 800,000 bits; ANS 800,032; range coder 800,032
#     1,000 zeros of probability 1e-6  -log2 p:  19,932 bits; ANS       0; range coder  19,936
#     28x28 image, uniform model       -log2 p:   6,272 bits; ANS   4,416; range coder   6,304
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check constriction==0.5.0 numpy==2.3.5
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import version

import constriction
import numpy as np

stream = constriction.stream
uniform = stream.model.Categorical(np.full(256, 1 / 256), perfect=False)
rare = stream.model.Categorical(np.r_[1e-6, np.full(255, (1 - 1e-6) / 255)], perfect=False)


def bits(message, model):
    """Lengths from the ANS coder and the range coder; both are decoded again."""
    message = np.asarray(message, dtype=np.int32)
    ans = stream.stack.AnsCoder()
    ans.encode_reverse(message, model)
    words = ans.get_compressed()
    assert np.array_equal(stream.stack.AnsCoder(words).decode(model, len(message)), message)
    encoder = stream.queue.RangeEncoder()
    encoder.encode(message, model)
    assert np.array_equal(stream.queue.RangeDecoder(encoder.get_compressed()).decode(model, len(message)), message)
    return 32 * len(words), 32 * len(encoder.get_compressed())


image = np.zeros((28, 28), dtype=np.int32)  # a stroke of random levels in the middle of a black image
image[8:20, 10:18] = np.random.default_rng(0).integers(1, 256, (12, 8))
found = {
    "100,000 zeros, uniform model": (bits(np.zeros(100_000), uniform), 800_000),
    "100,000 ones, uniform model": (bits(np.ones(100_000), uniform), 800_000),
    "1,000 zeros of probability 1e-6": (bits(np.zeros(1000), rare), round(1000 * np.log2(1e6))),
    "28x28 image, uniform model": (bits(image.ravel(), uniform), 784 * 8),
}
print(f"constriction {version('constriction')}")
for name, ((ans, range_coder), ideal) in found.items():
    print(f"{name:32} -log2 p: {ideal:7,} bits; ANS {ans:7,}; range coder {range_coder:7,}")
values = list(found.values())
expected = (
    values[0][0][0] == 0 and values[2][0][0] == 0
    and abs(values[1][0][0] - 800_000) < 200
    and values[3][0][0] < 0.75 * values[3][1]
    and all(abs(range_coder - ideal) < 200 for (_, range_coder), ideal in values)
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
