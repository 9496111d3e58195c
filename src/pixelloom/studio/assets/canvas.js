// A canvas of whole pixels. props.value is the JSON of pixelloom.studio.canvas.
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
const help = element.querySelector(".canvas-help");
const input = (name) => element.querySelector(`input.${name}`);
let shape = [1, 1, 1], levels = 2, palette = null, pixels = new Uint8Array(1), hole = new Uint8Array(1);
let scale = 1, tool = "hide", at = [0, 0], last = null, dirty = false;

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

function nearest(color) {  // index in the palette, by squared distance in RGB
  const far = (each) => each.reduce((sum, value, i) => sum + (value - color[i]) ** 2, 0);
  return palette.reduce((best, each, i) => (far(each) < far(palette[best]) ? i : best), 0);
}

function load() {
  if (!props.value) return;
  const state = JSON.parse(props.value);
  const same = String(shape) === String(state.shape);
  shape = state.shape; levels = state.levels;
  palette = state.palette ? state.palette.split(",").map(rgb) : null;  // colors of the levels of the only channel
  pixels = Uint8Array.from(atob(state.pixels), (c) => c.charCodeAt(0));
  hole = Uint8Array.from(state.hole, (c) => Number(c));
  const [channels, height, width] = shape;
  scale = Math.max(1, Math.floor(336 / Math.max(height, width)));
  canvas.width = width * scale; canvas.height = height * scale;
  input("level").max = levels - 1;
  if (!same) { input("level").value = levels - 1; at = [height >> 1, width >> 1]; }
  const colored = channels === 3 || palette !== null;
  element.querySelector(".of-gray").style.display = colored ? "none" : "";
  element.querySelector(".of-color").style.display = colored ? "" : "none";
  input("brush").max = Math.max(1, Math.floor(Math.max(height, width) / 3));
  draw();
}

function save() {
  if (!dirty) return;
  dirty = false;
  let text = "";
  for (let i = 0; i < pixels.length; i += 8192) text += String.fromCharCode(...pixels.subarray(i, i + 8192));
  const colors = palette ? { palette: JSON.parse(props.value).palette } : {};
  props.value = JSON.stringify({ shape, levels, ...colors, pixels: btoa(text), hole: Array.from(hole).join("") });
}

function shade(y, x) {
  const [channels, height, width] = shape, plane = height * width, i = y * width + x;
  if (palette) return palette[pixels[i]];
  const of = (c) => Math.round((255 * pixels[c * plane + i]) / (levels - 1));
  return channels === 3 ? [of(0), of(1), of(2)] : [of(0), of(0), of(0)];
}

function draw() {
  const [, height, width] = shape;
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const [r, g, b] = shade(y, x);
    pen.fillStyle = `rgb(${r},${g},${b})`;
    pen.fillRect(x * scale, y * scale, scale, scale);
    if (hole[y * width + x]) {
      pen.fillStyle = "#ea580c"; pen.fillRect(x * scale, y * scale, scale, scale);
      if (scale > 3) { pen.fillStyle = "#fdba74"; pen.fillRect(x * scale + 1, y * scale + 1, scale - 2, scale - 2); }
    }
  }
  const side = brush(), [top, left] = corner(at);
  pen.strokeStyle = "#2de2e6"; pen.lineWidth = 2;
  pen.strokeRect(left * scale + 1, top * scale + 1, side * scale - 2, side * scale - 2);
  const hidden = hole.reduce((sum, value) => sum + value, 0);
  help.textContent = `Row ${at[0]}, column ${at[1]}; ${hidden} of ${hole.length} pixels hidden. ` +
    "Keys: arrows, space, h, s, p, [ and ].";
}

const brush = () => Number(input("brush").value);
const corner = ([y, x]) => [y - ((brush() - 1) >> 1), x - ((brush() - 1) >> 1)];

function apply(position) {
  const [channels, height, width] = shape, [top, left] = corner(position), plane = height * width;
  const bytes = rgb(input("color").value);
  const value = palette ? nearest(bytes) : Number(input("level").value);  // of the only channel
  for (let y = Math.max(0, top); y < Math.min(height, top + brush()); y++)
    for (let x = Math.max(0, left); x < Math.min(width, left + brush()); x++) {
      const i = y * width + x;
      hole[i] = tool === "hide" ? 1 : 0;
      if (tool === "paint") for (let c = 0; c < channels; c++)
        pixels[c * plane + i] = channels === 3 ? Math.round((bytes[c] * (levels - 1)) / 255) : value;
    }
  dirty = true;
}

function line(from, to) {  // Bresenham: no gaps however fast the pointer moves
  let [y, x] = from;
  const dy = Math.abs(to[0] - y), dx = Math.abs(to[1] - x), sy = Math.sign(to[0] - y), sx = Math.sign(to[1] - x);
  let error = dx - dy;
  for (;;) {
    apply([y, x]);
    if (y === to[0] && x === to[1]) break;
    const twice = 2 * error;
    if (twice > -dy) { error -= dy; x += sx; }
    if (twice < dx) { error += dx; y += sy; }
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect(), edge = canvas.clientLeft, [, height, width] = shape;
  const y = Math.floor(((event.clientY - box.top - edge) / canvas.clientHeight) * height);
  const x = Math.floor(((event.clientX - box.left - edge) / canvas.clientWidth) * width);
  return [Math.min(height - 1, Math.max(0, y)), Math.min(width - 1, Math.max(0, x))];
}

function choose(name) {
  tool = name;
  for (const button of element.querySelectorAll("[data-tool]"))
    button.setAttribute("aria-pressed", String(button.dataset.tool === name));
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  at = last = place(event); apply(at); draw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  for (const each of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
    const next = place(each); line(last, next); at = last = next;
  }
  draw();
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, () => { last = null; save(); });

canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const tools = { h: "hide", s: "show", p: "paint" }, [, height, width] = shape;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (steps[event.key]) {
    const [dy, dx] = steps[event.key];
    at = [Math.min(height - 1, Math.max(0, at[0] + dy)), Math.min(width - 1, Math.max(0, at[1] + dx))];
    if (event.shiftKey) apply(at);
  } else if (event.key === " " || event.key === "Enter") apply(at);
  else if (tools[event.key]) choose(tools[event.key]);
  else if (event.key === "[" || event.key === "]") input("brush").value = brush() + (event.key === "]" ? 1 : -1);
  else return;
  event.preventDefault(); save(); draw();
});

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.tool) choose(button.dataset.tool);
  const [, height, width] = shape, kind = button.dataset.hole;
  if (kind) {
    for (let i = 0; i < hole.length; i++)
      hole[i] = kind === "all" ? 1 : kind === "none" ? 0 : kind === "invert" ? 1 - hole[i]
        : Number(Math.floor(i / width) >= height >> 1);
    dirty = true; save();
  }
  draw();
});
element.addEventListener("input", draw);
watch("value", load);
load();
