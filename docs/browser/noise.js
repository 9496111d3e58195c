// Uniform noise of an image, the same numbers as pixelloom.core.rng.image_noise: PCG64 (O'Neill 2014), seeded by
// NumPy's SeedSequence of (seed, index).

const MASK32 = 0xffffffff;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** Hash two integers below 2^32 into `words` integers of 32 bits, as numpy.random.SeedSequence does. */
function seedSequence(entropy, words) {
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
  const mix = (x, y) => {
    const value = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
    return (value | 0) ^ ((value | 0) >>> 16);
  };
  const pool = [0, 1, 2, 3].map((i) => hash(i < entropy.length ? entropy[i] | 0 : 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
  }
  constant = 0x8b51f9dd;
  return Array.from({ length: words }, (_, i) => {
    let value = pool[i % 4] ^ constant;
    constant = Math.imul(constant, 0x58f38ded);
    value = Math.imul(value, constant);
    return ((value ^ (value >>> 16)) & MASK32) >>> 0;
  });
}

/** Noise in [0, 1) of image `index`, Float64Array [n]; seed and index are integers below 2^32. */
export function noiseOf(seed, index, n) {
  const words = seedSequence([seed, index], 8).map(BigInt);
  const join = (i) => (words[i + 1] << 96n) | (words[i] << 64n) | (words[i + 3] << 32n) | words[i + 2];
  const increment = ((join(4) << 1n) | 1n) & MASK128;
  let state = (increment + join(0)) & MASK128;
  state = (state * MULTIPLIER + increment) & MASK128;
  const noise = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    state = (state * MULTIPLIER + increment) & MASK128;
    const folded = BigInt.asUintN(64, (state >> 64n) ^ state);
    const turn = state >> 122n;
    const bits = BigInt.asUintN(64, (folded >> turn) | (folded << (64n - turn)));
    noise[i] = Number(bits >> 11n) * 2 ** -53;
  }
  return noise;
}
