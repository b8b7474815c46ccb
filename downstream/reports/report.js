(() => {
"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, name, text = "") => Object.assign(document.createElement(tag), { className: name, textContent: text });
const page = JSON.parse($("#data").textContent), gallery = page.gallery;
const count = number => number.toLocaleString("en-US");
const off = new Set();  // numbers of the agents that are not shown

function makeMark(style) {
  const svg = $(".mark").cloneNode(true);
  svg.setAttribute("class", `mark d${Math.floor(style / 7) % 3}`);
  svg.style.setProperty("--c", `var(--c${style % 7})`);
  return svg;
}

function toggle(agent) {
  if (!off.delete(agent)) off.add(agent);
  for (const chip of $$("[data-toggle]")) chip.setAttribute("aria-pressed", !off.has(+chip.dataset.toggle));
  for (const part of $$("[data-agent]")) part.classList.toggle("off", off.has(+part.dataset.agent));
  if (gallery) build();
}
for (const chip of $$("[data-toggle]")) chip.onclick = () => toggle(+chip.dataset.toggle);

// ---- values of the curves, under the pointer or by arrow keys
for (const plot of $$("[data-chart]")) {
  const chart = page.charts[plot.dataset.chart], hair = $(".hair", plot), readout = $(".readout", plot);
  const stops = chart.stops;  // number, place in percent, and words of each
  const value = number => number.toFixed(chart.decimals);
  let at = stops.length - 1;
  const nearest = (list, x) => list.reduce((best, one, index) => Math.abs(one - x) < Math.abs(list[best] - x) ? index : best, 0);
  function show() {
    const [x, left, words] = stops[at];
    const lines = chart.lines.filter(line => !off.has(line.agent)).map(line => ({ ...line, at: nearest(line.x, x) }));
    readout.replaceChildren(make("small", "", words));
    for (const line of lines.sort((a, b) => b.mean[b.at] - a.mean[a.at])) {
      const row = make("div", "");
      const band = line.low ? ` (${value(line.low[line.at])} – ${value(line.high[line.at])})` : "";
      const number = make("span", "value", value(line.mean[line.at]));
      number.append(make("small", "", band));
      row.append(makeMark(line.style), make("span", "name", line.name), number);
      readout.append(row);
    }
    hair.hidden = readout.hidden = false;
    hair.style.left = `${left}%`;
    const room = plot.clientWidth, wide = readout.offsetWidth, place = room * left / 100;
    const right = place + 12 + wide <= room + 60;
    readout.style.left = `${Math.max(-36, right ? place + 12 : place - 12 - wide)}px`;
  }
  const hide = () => { hair.hidden = readout.hidden = true; };
  plot.onpointermove = event => {
    const box = plot.getBoundingClientRect();
    at = nearest(stops.map(stop => stop[1]), 100 * (event.clientX - box.left) / box.width);
    show();
  };
  plot.onpointerleave = plot.onblur = hide;
  plot.onfocus = () => { if (plot.matches(":focus-visible")) show(); };
  plot.onkeydown = event => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -stops.length, End: stops.length }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    at = Math.max(0, Math.min(stops.length - 1, at + step));
    show();
  };
}
if (!gallery) return;

// ---- pictures
const { side, size, moments } = gallery, patches = side * side, images = gallery.images;
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const sprites = new Map();
function sprite(url) {  // an image, undefined until it is ready
  if (!sprites.has(url)) {
    const image = new Image();
    image.onload = draw;
    image.src = url;
    sprites.set(url, image);
  }
  const image = sprites.get(url);
  return image.complete && image.naturalWidth ? image : undefined;
}
const tables = Object.fromEntries(Object.entries(gallery.maps).map(([name, stops]) => {
  const colours = stops.map(one => [1, 3, 5].map(place => parseInt(one.slice(place, place + 2), 16)));
  return [name, Array.from({ length: 256 }, (_, level) => {
    const place = level / 255 * (colours.length - 1), low = Math.min(Math.floor(place), colours.length - 2);
    return colours[low].map((part, channel) => part + (colours[low + 1][channel] - part) * (place - low));
  })];
}));
const gradient = name => `linear-gradient(90deg, ${gallery.maps[name].join(", ")})`;
for (const bar of $$("[data-map]")) bar.style.background = gradient(bar.dataset.map);
const agents = gallery.agents.map(one => ({
  ...page.agents[one.agent], number: one.agent,
  runs: one.runs.map(run => ({
    ...run, losses: bytes(run.losses), often: bytes(run.often),
    policy: { ...run.policy, bytes: bytes(run.policy.bytes) },
    values: run.values && { ...run.values, bytes: bytes(run.values.bytes) },
  })),
}));
const cellOf = new Uint16Array(size * size).map((_, pixel) =>
  Math.floor(Math.floor(pixel / size) * side / size) * side + Math.floor(pixel % size * side / size));
const HIDDEN = [58, 62, 74], BLACK = [0, 0, 0];
const VIEWS = {
  policy: ["policy map", "hot", "How much the agent wants to hide a patch: its score above or below the mean of the image, in the agent’s own units. Bright patches are hidden more often. Each agent has one scale for the whole of training; the outermost 2 % of its scores share the colours at its ends."],
  values: ["value map", "cool", "What the agent expects to come of a patch, in its own units; agents that expect nothing have no such map. Each agent has one scale for the whole of training."],
  mask: ["mask", null, "One mask an image, drawn as in training: dark patches are hidden. The same draws are used at every moment, so that what changes is the agent."],
  made: ["reconstruction", null, "What the U-Net makes of the hidden patches, between those that it is shown."],
  loss: ["patch loss", "hot", "Mean squared error of each hidden patch, in standardised intensities; patches that are shown are dark. One scale for all agents."],
};
const state = { moment: moments.length - 1, view: "policy", agent: agents[0].number, seed: null };
const grid = $("#grid"), slider = $("#slider");
let columns = [], originals = null;

const runOf = agent => agent.runs.find(run => String(run.seed) === state.seed) ?? agent.runs[0];

function build() {
  const all = state.view === "all", chosen = agents.filter(agent => all ? agent.number === state.agent : !off.has(agent.number));
  columns = chosen.flatMap(agent => (all ? Object.keys(VIEWS) : [state.view]).map(view => ({ agent, view, run: runOf(agent) })));
  grid.replaceChildren();
  const head = make("div", "head first");
  head.append(make("b", "", "image"));
  grid.append(head);
  grid.style.gridTemplateRows = `repeat(${images + 1}, auto)`;
  columns.unshift({ view: "image", canvases: addCells("first") });
  for (const column of columns.slice(1)) {
    column.head = make("div", "head");
    grid.append(column.head);
    column.canvases = addCells("");
  }
  if (columns.length === 1) grid.append(make("p", "empty", "Choose an agent above."));
  $("#one").hidden = !all;
  $("#meaning").textContent = all ? `Everything that is known of one agent${agents.length > 1 ? "; choose which beside the switch" : ""}. Policy and value maps are in the agent’s own units, patch losses in standardised intensities.` : VIEWS[state.view][2];
  draw();
}

function addCells(name) {
  return Array.from({ length: images }, () => {
    const cell = make("div", `cell ${name}`), canvas = make("canvas", "");
    canvas.width = canvas.height = size;
    canvas.setAttribute("role", "img");
    cell.append(canvas);
    grid.append(cell);
    return canvas;
  });
}

function readOriginals() {
  const sheet = sprite(gallery.originals);
  if (!sheet || originals) return;
  const canvas = make("canvas", "");
  [canvas.width, canvas.height] = [size * images, size];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(sheet, 0, 0);
  originals = Array.from({ length: images }, (_, image) => context.getImageData(image * size, 0, size, size));
}

// how a cell of the grid looks: how much of the image stays, the colour added to that, and whether the image is grey
function cellLook(run, view, cell) {
  const hidden = run.losses[cell] > 0, map = run[view], colours = tables[VIEWS[view][1]];
  if (view === "mask") return hidden ? [0, HIDDEN] : [1, BLACK];
  if (view === "loss") return hidden ? [0, colours[run.losses[cell]]] : [.33, BLACK];
  if (view === "made") return [1, BLACK];
  if (!map) return [.33, BLACK];
  return map.low === map.high ? [1, BLACK, true] : [.38, colours[map.bytes[cell]].map(part => .62 * part), true];
}

function paint(canvas, { run, view }, image, moment = state.moment) {
  const context = canvas.getContext("2d");
  if (view === "image") return context.putImageData(originals[image], 0, 0);
  const frame = run.frame[moment], start = (frame * images + image) * patches;
  const original = originals[image].data, picture = context.createImageData(size, size), pixels = picture.data;
  const looks = Array.from({ length: patches }, (_, cell) => cellLook(run, view, start + cell));
  for (let pixel = 0, place = 0; pixel < cellOf.length; pixel++, place += 4) {
    const [keep, [red, green, blue], grey] = looks[cellOf[pixel]];
    const mean = grey && (original[place] + original[place + 1] + original[place + 2]) / 3;
    pixels[place] = keep * (grey ? mean : original[place]) + red;
    pixels[place + 1] = keep * (grey ? mean : original[place + 1]) + green;
    pixels[place + 2] = keep * (grey ? mean : original[place + 2]) + blue;
    pixels[place + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
  const sheet = view === "made" && sprite(run.sprite), edge = number => Math.ceil(number * size / side);
  const nothing = run.losses.subarray(start, start + patches).every(one => one === 0);  // then all of it is shown
  for (let cell = 0; sheet && cell < patches; cell++) {
    if (run.losses[start + cell] === 0 && !nothing) continue;
    const row = Math.floor(cell / side), column = cell % side, x = edge(column), y = edge(row);
    const wide = edge(column + 1) - x, high = edge(row + 1) - y;
    context.drawImage(sheet, image * size + x, frame * size + y, wide, high, x, y, wide, high);
  }
}

function label(column) {
  const { agent, run, view } = column, frame = run.frame[state.moment], all = state.view === "all";
  const title = make("b", "", all ? VIEWS[view][0] : agent.name), seen = run.images[frame], hard = run.hardness[frame];
  if (!all) title.prepend(makeMark(agent.style));
  column.head.replaceChildren(title);
  if (!all) {
    const late = Math.abs(seen - moments[state.moment]) > .02 * moments.at(-1);
    column.head.append(make("small", "", (late ? `after ${count(seen)}` : hard === null ? "hardness –" : `hardness ${hard.toFixed(2)}, sampled`)
      + (String(run.seed) === state.seed ? "" : `, seed ${run.seed}`)));
  }
  const scale = make("div", "scale"), numbers = { policy: run.policy, values: run.values, loss: { low: 0, high: gallery.worst } }[view];
  if (numbers) {
    const bar = make("i", ""), flat = numbers.low === numbers.high;
    bar.style.background = gradient(VIEWS[view][1]);
    if (flat) scale.append(make("span", "", "all alike"));
    else scale.append(make("span", "", short(numbers.low)), bar, make("span", "", (view === "loss" ? "≥ " : "") + short(numbers.high)));
    scale.setAttribute("aria-label", flat ? "all patches alike" : `colours run from ${short(numbers.low)} to ${short(numbers.high)}`);
    scale.setAttribute("role", "img");
  } else if (view === "mask") scale.append(make("i", "swatch"), make("span", "", "hidden"));
  column.head.append(scale);
}

const short = number => (Math.abs(number) >= 100 ? number.toFixed(0) : Math.abs(number) >= 10 ? number.toFixed(1) : number.toFixed(2)).replace("-", "−");

function draw() {
  readOriginals();
  const after = `after ${count(moments[state.moment])} images`;
  $("#moment").textContent = after;
  slider.value = state.moment;
  slider.style.setProperty("--done", `${100 * state.moment / Math.max(1, moments.length - 1)}%`);
  slider.setAttribute("aria-valuetext", after);
  for (const line of $$(".now")) {
    line.hidden = false;
    line.style.left = `${Math.min(100, 100 * moments[state.moment] / line.parentNode.dataset.end)}%`;
  }
  for (const column of columns) {
    if (column.head) label(column);
    column.canvases.forEach((canvas, image) => {
      if (originals) paint(canvas, column, image);
      const what = column.head ? `${column.agent.name}, ${VIEWS[column.view][0]}, image ${image + 1}, ${after}` : `image ${image + 1}`;
      canvas.setAttribute("aria-label", what);
      if (column.view === "values" && !column.run.values) canvas.parentNode.dataset.none = "no value map";
    });
  }
  for (const canvas of $$("[data-hero]")) {
    canvas.width = canvas.height = size;
    if (originals) paint(canvas, { view: canvas.dataset.hero, run: agents[0].runs[0] }, 0, moments.length - 1);
  }
  for (const canvas of $$("[data-heat]")) heat(canvas, agents.find(agent => agent.number === +canvas.dataset.heat));
}

function heat(canvas, agent) {
  const run = runOf(agent), frame = run.frame[state.moment], shares = run.often.subarray(frame * patches, (frame + 1) * patches);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), picture = context.createImageData(side, side);
  shares.forEach((share, cell) => picture.data.set([...tables.cool[share], 255], 4 * cell));
  context.putImageData(picture, 0, 0);
  const percent = number => Math.round(100 * number);
  const text = `${percent(run.least[frame])} – ${percent(run.most[frame])} %${agent.runs.length > 1 ? `, seed ${run.seed}` : ""}`;
  canvas.nextElementSibling.textContent = text;
  canvas.setAttribute("aria-label", `${agent.name}: patches are hidden in ${text} of the masks`);
}

// ---- time and choices
let timer = null, pending = 0;
function go(moment) {
  if (!pending) pending = requestAnimationFrame(() => { pending = 0; draw(); });  // at most one drawing a screen refresh
  state.moment = Math.max(0, Math.min(moments.length - 1, moment));
}
function play(on) {
  clearInterval(timer);
  timer = null;
  $("#play").setAttribute("aria-pressed", on);
  $("#play").setAttribute("aria-label", on ? "Pause" : "Play");
  if (!on) return;
  if (state.moment === moments.length - 1) go(0);
  timer = setInterval(() => {
    go(state.moment + 1);
    if (state.moment === moments.length - 1) play(false);
  }, 450);
}
$("#play").onclick = () => play(timer === null);
slider.oninput = () => { play(false); go(+slider.value); };
document.addEventListener("keydown", event => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey || document.activeElement !== document.body) return;
  play(false);
  go(state.moment + step);
});
for (const radio of $$("[name=view]")) radio.onchange = () => { state.view = radio.value; build(); };
$("#one select").onchange = event => { state.agent = +event.target.value; build(); };
$("#seed select").onchange = event => { state.seed = event.target.value; build(); };
const checked = $("[name=view]:checked");
if (checked) state.view = checked.value;
state.seed = $("#seed select").value;
state.agent = +$("#one select").value;
build();
})();
