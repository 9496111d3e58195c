// The page: draws digits by network.js, one pixel after another, and explains the pointed pixel. While the visitor paints,
// ONNX Runtime computes the probabilities of all pixels by one pass.

import { Network, draw, readSafetensors, sigmoid } from "./network.js";
import { noiseOf } from "./noise.js";

const SEED = 0;
const FRAMES = 80; // in which an image is drawn
const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");

let network, height, width, half;
let session = null; // of ONNX Runtime, once it is loaded
let run = 0; // number of the drawing under way; an older one stops
const state = { image: null, drawn: 0, chance: null, noise: null, index: -1, painted: false, at: null, busy: false };

/** Draw the image of an index. The upper half is kept if `keep`. */
async function weave(index, keep) {
  const mine = ++run;
  const n = height * width;
  Object.assign(state, { index, painted: keep, noise: noiseOf(SEED, index, n), busy: true, drawn: keep ? half * width : 0 });
  $("hint").hidden = true;
  caption();
  const drawing = network.start();
  const pace = still.matches ? n : Math.ceil(n / FRAMES);
  while (drawing.position < n) {
    for (let k = 0; (k < pace || drawing.position < state.drawn) && drawing.position < n; k++) {
      const at = drawing.position, logit = drawing.next();
      state.chance[at] = sigmoid(logit);
      if (!keep || at >= half * width) state.image[at] = draw(logit, state.noise[at]);
      drawing.set(state.image[at]);
    }
    state.drawn = drawing.position;
    show();
    await new Promise(requestAnimationFrame);
    if (mine !== run) return;
  }
  state.busy = false;
  show();
  if (!performance.getEntriesByName("first-digit").length) performance.mark("first-digit");
  document.body.dataset.drawn = String(mine);
}

/** Probabilities of ink at all pixels of the image, by one pass of the network. */
async function pass() {
  if (!session || pass.running) return;
  pass.running = true;
  const images = new pass.ort.Tensor("uint8", state.image.slice(), [1, 1, height, width]);
  const { parameters } = await session.run({ images });
  pass.running = false;
  if (!state.busy) {
    state.chance = Float64Array.from(parameters.data, sigmoid);
    show();
  }
}

function caption() {
  $("command").textContent = state.painted
    ? `The upper half is yours, the lower one is the network's (noise ${state.index}).`
    : `pixelloom sample binarized-mnist --seed ${SEED} --first ${state.index} -n 1 draws this very digit.`;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function show() {
  const canvas = $("image"), cell = Math.max(4, Math.round((canvas.clientWidth * devicePixelRatio) / width));
  if (canvas.width !== cell * width) [canvas.width, canvas.height] = [cell * width, cell * height];
  const context = canvas.getContext("2d"), gap = Math.max(0.5, cell * 0.04);
  const [ink, todo, line, accent, mask, field] = ["--ink", "--todo", "--line", "--accent", "--mask", "--field"].map(css);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const square = (p, inset, round = 0.14) => {
    context.beginPath();
    context.roundRect((p % width) * cell + inset, Math.floor(p / width) * cell + inset, cell - 2 * inset, cell - 2 * inset, round * cell);
  };
  for (let p = 0; p < height * width; p++) {
    if (p >= state.drawn) {
      context.fillStyle = todo;
      square(p, cell * 0.38, 0.2);
      context.fill();
    } else if (state.image[p]) {
      context.fillStyle = ink;
      square(p, gap);
      context.fill();
    }
  }
  context.strokeStyle = line;
  context.lineWidth = 1;
  context.setLineDash([cell / 4, cell / 4]);
  context.beginPath();
  context.moveTo(0, half * cell);
  context.lineTo(canvas.width, half * cell);
  context.stroke();
  context.setLineDash([]);
  if (state.busy && state.drawn < height * width) {
    context.fillStyle = accent;
    square(state.drawn, gap);
    context.fill();
  }
  if (state.at !== null) {
    const y = Math.floor(state.at / width), x = state.at % width;
    context.fillStyle = field;
    for (const p of network.field(y, x)) context.fillRect((p % width) * cell, Math.floor(p / width) * cell, cell, cell);
    context.strokeStyle = mask;
    context.lineWidth = Math.max(1, cell * 0.08);
    for (const p of network.mask(y, x)) {
      square(p, cell * 0.1);
      context.stroke();
    }
    context.strokeStyle = accent;
    context.lineWidth = Math.max(2, cell * 0.18);
    square(state.at, 0);
    context.stroke();
  }
  map();
  explain();
}

function map() {
  const canvas = $("map");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.fillStyle = css("--accent");
  for (let p = 0; p < height * width; p++) {
    if (p >= state.drawn && state.busy) continue;
    context.globalAlpha = state.chance[p];
    context.fillRect(p % width, Math.floor(p / width), 1, 1);
  }
}

const percent = (p) => `${(100 * p).toFixed(p > 0.001 && p < 0.999 ? 1 : 3)} %`;

function explain() {
  const p = state.at;
  if (p === null) return;
  const y = Math.floor(p / width), x = p % width;
  $("where").textContent = `Row ${y}, column ${x}`;
  $("taps").textContent = `mask: the first layer reads ${network.mask(y, x).size} pixels`;
  $("reach").textContent = `receptive field: ${network.field(y, x).size} pixels`;
  if (p >= state.drawn) {
    [$("p0").textContent, $("p1").textContent] = ["paper", "ink"];
    $("noise").hidden = true;
    $("pixel").textContent = "Not drawn yet.";
    return;
  }
  const ink = state.chance[p], mine = state.painted && y < half;
  $("paper").style.width = `${100 * (1 - ink)}%`;
  $("p0").textContent = `paper ${percent(1 - ink)}`;
  $("p1").textContent = `ink ${percent(ink)}`;
  $("noise").hidden = mine;
  $("noise").style.left = `${100 * state.noise[p]}%`;
  $("pixel").textContent = mine
    ? `You chose ${state.image[p] ? "ink" : "paper"}; the bar shows what the network expected.`
    : `The noise ${state.noise[p].toFixed(3)}, the orange line, lies in ${state.image[p] ? "ink" : "paper"}: so this pixel is ${state.image[p] ? "ink" : "paper"}.`;
}

// ------------------------------------------------------------------------------------------------------------ input

let stroke = null; // the level that is painted

function cellOf(event) {
  const box = $("image").getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
  return Math.floor(y * height) * width + Math.floor(x * width);
}

/** Set a pixel of the upper half, and for ink its neighbors on the right and below, as wide as the strokes of a pen. */
function paint(p, wide) {
  const y = Math.floor(p / width), x = p % width;
  if (y >= half) return;
  if (!state.painted || state.busy) begin();
  for (const [dy, dx] of wide ? [[0, 0], [0, 1], [1, 0], [1, 1]] : [[0, 0]]) {
    if (y + dy < half && x + dx < width) state.image[(y + dy) * width + x + dx] = stroke;
  }
  pass();
}

/** The upper half becomes the visitor's; the lower one waits. */
function begin() {
  run++;
  Object.assign(state, { painted: true, busy: false, drawn: half * width });
  state.image.fill(0, half * width);
  $("hint").hidden = true;
  $("command").textContent = "";
}

/** Pixels of the upper half that an interrupted drawing has not reached are paper. */
function settle() {
  if (state.drawn < half * width) state.image.fill(0, state.drawn);
}

const complete = () => weave(state.index, true);
const another = () => weave(state.index + 1, false);

function again() {
  settle();
  weave(state.index + 1, true);
}

function clear() {
  run++;
  state.image.fill(0);
  begin();
  $("hint").hidden = false;
  pass();
  show();
}

function listen() {
  const canvas = $("image");
  canvas.addEventListener("pointerdown", (event) => {
    const p = cellOf(event);
    if (p === null || Math.floor(p / width) >= half) return;
    canvas.setPointerCapture(event.pointerId);
    settle();
    stroke = 1 - state.image[p];
    paint(p, stroke === 1);
    show();
  });
  canvas.addEventListener("pointermove", (event) => {
    for (const each of stroke === null ? [event] : event.getCoalescedEvents?.() ?? [event]) {
      const p = cellOf(each);
      if (p !== null && stroke !== null) paint(p, stroke === 1);
    }
    const p = cellOf(event);
    if (p === state.at && stroke === null) return;
    state.at = p ?? state.at;
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      state.at = cellOf(event) ?? state.at;
      if (stroke !== null) complete();
      stroke = null;
      show();
    });
  }
  $("another").addEventListener("click", another);
  $("again").addEventListener("click", again);
  $("clear").addEventListener("click", clear);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { n: another, c: again, x: clear }[event.key.toLowerCase()];
    if (action) action();
    if (event.target !== canvas) return;
    const [dy, dx] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (dy || dx) {
      event.preventDefault();
      const [y, x] = state.at === null ? [half >> 1, width >> 1] : [Math.floor(state.at / width) + dy, (state.at % width) + dx];
      state.at = Math.min(height - 1, Math.max(0, y)) * width + Math.min(width - 1, Math.max(0, x));
      show();
    } else if ((event.key === " " || event.key === "Enter") && state.at !== null && state.at < half * width) {
      event.preventDefault();
      settle();
      stroke = 1 - state.image[state.at];
      paint(state.at, false);
      stroke = null;
      complete();
    }
  });
  new ResizeObserver(show).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
}

// ------------------------------------------------------------------------------------------------------------- start

async function start() {
  const answer = await fetch("vendor/binarized-mnist.safetensors");
  if (!answer.ok) throw new Error("the model is missing: run `make page`");
  network = new Network(readSafetensors(await answer.arrayBuffer()));
  [height, width, half] = [network.height, network.width, network.height >> 1];
  state.image = new Uint8Array(height * width);
  state.chance = new Float64Array(height * width);
  listen();
  await weave(0, false);
  const ort = await import("./vendor/ort.wasm.bundle.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };
  pass.ort = ort;
  session = await ort.InferenceSession.create("vendor/binarized-mnist.onnx", { executionProviders: ["wasm"] });
  performance.mark("runtime-ready");
  document.body.dataset.runtime = "ready";
}

start().catch((error) => {
  $(state.image ? "state" : "pixel").textContent = `${error.message ?? error}`;
});

export { state, weave };
