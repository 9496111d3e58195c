// A PixelCNN of gated blocks, one pixel at a time in raster order: each feature of each pixel is computed once and kept,
// which is 1/784 of the work of a pass of the network per pixel. See pixelloom/networks/pixel/pixelcnn.py.
//
// Sums are in float64, those of torch in float32: logits differ by up to 8e-6.

/** The tensors and the description of a model.safetensors file. */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  const { __metadata__: meta, ...entries } = header;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    if (dtype !== "F32") throw new Error(`${name}: float32 is needed, not ${dtype}`);
    tensors[name] = { shape, data: new Float32Array(buffer.slice(8 + length + from, 8 + length + to)) };
  }
  return { tensors, about: JSON.parse(meta.pixelloom).meta, sha256: meta.sha256 };
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** out[o] = bias[o] + sum_i weight[o, i] x[i], in place. */
function affine({ weight, bias }, x, out) {
  const n = x.length;
  for (let o = 0, at = 0; o < out.length; o++) {
    let a = 0, b = 0, c = 0, d = 0, i = 0;
    for (; i + 3 < n; i += 4, at += 4) {
      a += weight[at] * x[i];
      b += weight[at + 1] * x[i + 1];
      c += weight[at + 2] * x[i + 2];
      d += weight[at + 3] * x[i + 3];
    }
    for (; i < n; i++, at++) a += weight[at] * x[i];
    out[o] = bias[o] + (a + b) + (c + d);
  }
}

/** Weights [out, in, rows, columns] -> [out, taps * in], without the masked taps; `own`: the center is read. */
function masked(tensors, name, own) {
  const { shape: [out, inner, rows, columns], data } = tensors[`${name}.weight`];
  const taps = rows * columns - ((columns - 1) >> 1) - (own ? 0 : 1);
  const weight = new Float64Array(out * taps * inner);
  for (let o = 0; o < out; o++) {
    for (let i = 0; i < inner; i++) {
      for (let t = 0; t < taps; t++) {
        weight[(o * taps + t) * inner + i] = data[(o * inner + i) * rows * columns + t];
      }
    }
  }
  return { weight, bias: Float64Array.from(tensors[`${name}.bias`].data), out, inner, rows, columns, taps };
}

/** Values [inner] of every pixel with a margin of zeros, from which the window of a masked kernel is copied. */
class Plane {
  constructor({ inner, rows, columns, taps }, height, width) {
    this.radius = columns >> 1;
    this.inner = inner;
    this.columns = columns;
    this.stride = (width + 2 * this.radius) * inner;
    this.values = new Float64Array((height + rows - 1) * this.stride);
    this.rows = rows;
    this.window = new Float64Array(taps * inner);
  }

  at(y, x) {
    return (y + this.rows - 1) * this.stride + (x + this.radius) * this.inner;
  }

  gather(y, x) {
    const row = this.columns * this.inner;
    let from = this.at(y, x) - this.radius * this.inner - (this.rows - 1) * this.stride;
    for (let to = 0; to < this.window.length; to += row, from += this.stride) {
      this.window.set(this.values.subarray(from, from + Math.min(row, this.window.length - to)), to);
    }
    return this.window;
  }
}

export class Network {
  constructor({ tensors, about }) {
    const { network, model, image } = about;
    if (network !== "pixelcnn" || model.block !== "gated" || model.norm !== "none" || image.levels !== 2 || image.channels !== 1) {
      throw new Error("only a PixelCNN of gated blocks without norms, for binary images, is implemented");
    }
    [this.height, this.width] = [image.height, image.width];
    this.model = model;
    this.first = masked(tensors, "first", false);
    this.blocks = Array.from({ length: model.blocks }, (_, b) => ({
      down: masked(tensors, `blocks.${b}.down`, true),
      mix: masked(tensors, `blocks.${b}.mix`, true),
      up: masked(tensors, `blocks.${b}.up`, true),
    }));
    this.output = masked(tensors, "output", true);
    this.rows = tensors["positions.rows"].data;
    this.columns = tensors["positions.columns"].data;
    this.activate = model.activation === "silu" ? (x) => x * sigmoid(x) : (x) => Math.max(0, x);
  }

  /** Begin an image. */
  start() {
    return new Drawing(this);
  }

  /** The pixels that the first layer reads for a pixel: the taps of mask A, as a Set of y * width + x. */
  mask(y, x) {
    return this.read(new Set([y * this.width + x]), this.first);
  }

  /** The receptive field of a pixel: all pixels that its distribution depends on. */
  field(y, x) {
    let found = new Set([y * this.width + x]);
    for (const { mix } of this.blocks) found = this.read(found, mix);
    return this.read(found, this.first);
  }

  read(positions, { rows, columns, taps }) {
    const found = new Set();
    for (const position of positions) {
      const y = Math.floor(position / this.width), x = position % this.width;
      for (let t = 0; t < taps; t++) {
        const yy = y + Math.floor(t / columns) - rows + 1, xx = x + (t % columns) - (columns >> 1);
        if (yy >= 0 && xx >= 0 && xx < this.width) found.add(yy * this.width + xx);
      }
    }
    return found;
  }
}

/** An image in the making: pixels are computed and set in raster order. */
class Drawing {
  constructor(network) {
    this.network = network;
    const { height, width } = network;
    this.image = new Plane(network.first, height, width);
    this.planes = network.blocks.map(({ mix }) => new Plane(mix, height, width));
    this.h = new Float64Array(network.first.out);
    this.active = new Float64Array(network.first.out);
    this.hidden = new Float64Array(network.model.hidden ?? network.first.out >> 1);
    this.gate = new Float64Array(2 * this.hidden.length);
    this.logit = new Float64Array(1);
    this.position = 0;
  }

  /** The logit of ink at the next pixel, given those that were set. */
  next() {
    const { first, blocks, output, rows, columns, height, width, activate } = this.network;
    const { h, active, hidden, gate } = this;
    const y = Math.floor(this.position / width), x = this.position % width;
    affine(first, this.image.gather(y, x), h);
    for (let c = 0; c < h.length; c++) h[c] += rows[c * height + y] + columns[c * width + x];
    for (let b = 0; b < blocks.length; b++) {
      const plane = this.planes[b];
      for (let c = 0; c < h.length; c++) active[c] = h[c] * sigmoid(h[c]);
      affine(blocks[b].down, active, hidden);
      for (let c = 0, at = plane.at(y, x); c < hidden.length; c++) plane.values[at + c] = hidden[c] * sigmoid(hidden[c]);
      affine(blocks[b].mix, plane.gather(y, x), gate);
      for (let c = 0; c < hidden.length; c++) hidden[c] = gate[c] * sigmoid(gate[hidden.length + c]);
      affine(blocks[b].up, hidden, active);
      for (let c = 0; c < h.length; c++) h[c] += active[c];
    }
    for (let c = 0; c < h.length; c++) active[c] = activate(h[c]);
    affine(output, active, this.logit);
    return this.logit[0];
  }

  /** Set the next pixel, 0 or 1, and go on to the one after it. */
  set(value) {
    const { width } = this.network;
    this.image.values[this.image.at(Math.floor(this.position / width), this.position % width)] = 2 * value - 1;
    this.position++;
  }
}

/** The level that noise draws: 1 where the noise is at or above p(0). */
export function draw(logit, noise) {
  return noise >= sigmoid(-logit) ? 1 : 0;
}

export { sigmoid };
