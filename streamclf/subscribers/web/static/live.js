// The wall of streams, and one stream large. Texts of the service are set as text, never as HTML.
import { connection, stateOf, whenReady } from "/static/page.js";
import { clock, milliseconds, percent, setLabel, setText } from "/static/dom.js";
import { bestGrid } from "/static/grid.js";
import { Timeline } from "/static/timeline.js";

const GAP = 8;
const SMALLEST_TILE = 190;
const SVG = "http://www.w3.org/2000/svg";
const CAPTION = 50; // height of the text under a picture, as in live.css

const root = await whenReady("live");
const wall = make("ul", "wall");
const large = make("section", "large");
wall.setAttribute("aria-label", "Streams");
large.hidden = true;
root.append(wall, large);

const tiles = new Map(); // by stream
const inSight = new Set();
let opened = streamOf(location.pathname);
let panel = null;

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function setData(element, key, value) {
  if (element.dataset[key] !== value) element.dataset[key] = value;
}

function streamOf(path) {
  const match = /^\/live\/([A-Za-z0-9_-]{1,64})$/.exec(path);
  return match ? match[1] : null;
}

// Return the name of a view for people; empty for the whole picture and the model without a name.
function viewName(view) {
  return [view.region, view.model_name].filter(Boolean).join(" · ");
}

// Return whether a stream has only the view without names.
function isPlain(state) {
  return state.views.length === 1 && viewName(state.views[0]) === "";
}

// Return the labels that apply in a view: the most probable one, or all above their thresholds.
function labelsOf(view) {
  if (view.present === null) return "…";
  return view.present.join(", ") || "none";
}

// A canvas that shows the newest picture of a stream. A picture that arrives while another is decoded waits.
class Screen {
  #waiting = null;
  #busy = false;

  constructor(stream) {
    this.stream = stream;
    this.canvas = make("canvas", "picture");
    this.canvas.width = 16;
    this.canvas.height = 9;
    this.count = 0;
    this.drawnAt = null;
  }

  async draw(jpeg) {
    if (this.#busy) {
      if (this.#waiting) connection.confirm(this.stream);
      this.#waiting = jpeg;
      return;
    }
    this.#busy = true;
    try {
      const image = await createImageBitmap(jpeg);
      if (this.canvas.width !== image.width || this.canvas.height !== image.height) {
        this.canvas.width = image.width;
        this.canvas.height = image.height;
      }
      this.canvas.getContext("2d", { alpha: false }).drawImage(image, 0, 0);
      image.close();
      this.count += 1;
      this.drawnAt = performance.now();
      this.canvas.dataset.pictures = String(this.count);
    } catch {
      // a picture that cannot be decoded; the next one follows
    }
    this.#busy = false;
    connection.confirm(this.stream);
    if (this.#waiting) {
      const next = this.#waiting;
      this.#waiting = null;
      this.draw(next);
    }
  }
}

// Show a chip for each view, those with a running action first: the line may be too short for all.
function showChips(element, views) {
  const ordered = [...views].sort((a, b) => Number(b.actions.length > 0) - Number(a.actions.length > 0));
  while (element.children.length > ordered.length) element.lastChild.remove();
  ordered.forEach((view, index) => {
    let chip = element.children[index];
    if (!chip) {
      chip = make("span", "chip");
      chip.append(make("bdi", "chip-view"), make("bdi", "chip-label"));
      element.append(chip);
    }
    setData(chip, "region", view.region ?? "");
    setData(chip, "model", view.model_name ?? "");
    setData(chip, "action", view.actions.length ? "yes" : "no");
    setText(chip.firstChild, viewName(view));
    setText(chip.lastChild, labelsOf(view));
  });
}

// The rectangles of a stream's regions, over a picture that keeps its aspect in its frame.
class Regions {
  constructor(canvas) {
    this.canvas = canvas;
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "regions");
    this.svg.setAttribute("aria-hidden", "true");
  }

  update(views) {
    const { width, height } = this.canvas;
    const shapes = new Map();
    for (const view of views) {
      if (view.area === null) continue;
      const known = shapes.get(view.region) ?? { area: view.area, runs: false };
      shapes.set(view.region, { ...known, runs: known.runs || view.actions.length > 0 });
    }
    const px = this.#pixel(width, height);
    const drawn = JSON.stringify([width, height, px, [...shapes]]);
    if (this.svg.dataset.drawn === drawn) return;
    this.svg.dataset.drawn = drawn;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    for (const [region, { area, runs }] of shapes) {
      const [left, top, right, bottom] = area;
      const rectangle = document.createElementNS(SVG, "rect");
      const text = document.createElementNS(SVG, "text");
      for (const [key, value] of Object.entries({
        x: left * width, y: top * height, width: (right - left) * width, height: (bottom - top) * height,
      })) rectangle.setAttribute(key, String(value));
      rectangle.dataset.action = runs ? "yes" : "no";
      text.setAttribute("x", String(left * width + 5 * px));
      text.setAttribute("y", String(top * height + 16 * px));
      text.setAttribute("font-size", String(13 * px));
      text.setAttribute("stroke-width", String(3 * px));
      text.textContent = region ?? "";
      this.svg.append(rectangle, text);
    }
  }

  // The size of one pixel of the screen in pixels of the picture: names are as large on a phone as on a desk.
  #pixel(width, height) {
    const { width: across, height: down } = this.svg.getBoundingClientRect();
    const scale = Math.min(across / width, down / height);
    return scale > 0 ? Number((1 / scale).toPrecision(3)) : 1;
  }
}

class Tile {
  constructor(stream) {
    this.stream = stream;
    this.screen = new Screen(stream);
    this.item = make("li", "tile");
    this.item.dataset.stream = stream;
    this.link = make("a", "tile-link");
    this.link.href = `/live/${stream}`;
    const frame = make("span", "frame");
    this.lost = make("span", "lost");
    this.lostWord = make("span", "lost-word");
    this.lostReason = make("span", "lost-reason");
    this.lost.append(this.lostWord, this.lostReason);
    frame.append(this.screen.canvas, this.lost);
    const caption = make("span", "caption");
    const first = make("span", "line");
    const second = make("span", "line");
    this.dot = make("span", "dot");
    this.dot.setAttribute("aria-hidden", "true");
    this.name = make("bdi", "name");
    this.node = make("span", "node");
    this.node.hidden = true;
    this.latency = make("span", "latency num");
    this.label = make("bdi", "label");
    this.probability = make("span", "probability num");
    this.chips = make("span", "chips");
    this.chips.hidden = true;
    this.bar = make("span", "bar-track");
    this.fill = make("span", "bar-fill");
    this.bar.append(this.fill);
    first.append(this.dot, this.name, this.node, this.latency);
    second.append(this.label, this.probability, this.chips);
    caption.append(first, second);
    this.link.append(frame, caption, this.bar);
    this.item.append(this.link);
  }

  update(state) {
    const { word, reason } = stateOf(state);
    const isLive = word === "live";
    setData(this.item, "state", word);
    setData(this.item, "action", state.actions.length ? "yes" : "no");
    setText(this.name, state.name);
    this.node.hidden = state.node === null;
    setText(this.node, state.node ?? "");
    this.node.title = state.node === null ? "" : `This node of the fleet runs the stream: ${state.node}`;
    setText(this.latency, isLive ? `latency ${milliseconds(state.latency_ms)}` : word);
    const plain = isPlain(state);
    const [, probability] = state.top[0] ?? ["", undefined];
    const label = state.views[0].present === null ? "" : labelsOf(state.views[0]);
    this.chips.hidden = plain || !isLive;
    this.label.hidden = this.probability.hidden = !this.chips.hidden;
    if (!this.chips.hidden) showChips(this.chips, state.views);
    setText(this.label, isLive ? label || "no prediction yet" : label ? `last: ${label}` : "no prediction");
    setText(this.probability, probability === undefined ? "" : percent(probability));
    this.fill.style.transform = `scaleX(${plain ? (probability ?? 0) : 0})`;
    this.lost.hidden = isLive;
    setText(this.lostWord, word);
    setText(this.lostReason, reason);
    const views = plain ? [] : state.views.map((view) => `${viewName(view) || "whole picture"}: ${labelsOf(view)}`);
    const title = [state.name, state.note, reason, ...views].filter(Boolean).join("\n");
    if (this.link.title !== title) this.link.title = title;
  }
}

// One stream large: its picture, the model's answer, and how it changed over the last hour.
class Panel {
  constructor(stream) {
    this.stream = stream;
    this.screen = new Screen(stream);
    this.element = make("div", "panel");
    this.element.dataset.stream = stream;
    const head = make("div", "panel-head");
    this.back = make("a", "quiet-button back", "← All streams");
    this.back.href = "/live";
    this.name = make("h2", "panel-name");
    this.state = make("span", "panel-state");
    const step = make("span", "steps");
    this.previous = make("a", "icon-button", "‹");
    this.next = make("a", "icon-button", "›");
    this.previous.setAttribute("aria-label", "Previous stream");
    this.next.setAttribute("aria-label", "Next stream");
    const areas = make("a", "quiet-button", "Regions and masks");
    areas.href = `/settings#areas=${stream}`;
    step.append(areas, this.previous, this.next);
    head.append(this.back, this.name, this.state, step);
    const frame = make("div", "frame panel-frame");
    this.lost = make("span", "lost");
    this.lostWord = make("span", "lost-word");
    this.lostReason = make("span", "lost-reason");
    this.lost.append(this.lostWord, this.lostReason);
    this.screen.canvas.setAttribute("role", "img");
    this.regions = new Regions(this.screen.canvas);
    frame.append(this.screen.canvas, this.regions.svg, this.lost);
    const side = make("div", "side");
    this.chosen = "";
    this.choice = make("div", "views");
    this.choice.setAttribute("role", "group");
    this.choice.setAttribute("aria-label", "Regions and models");
    this.choice.hidden = true;
    this.top = make("ol", "top");
    this.top.setAttribute("aria-label", "Most probable labels");
    this.rows = Array.from({ length: 5 }, () => this.#row());
    this.actions = make("p", "actions");
    this.facts = make("dl", "facts");
    this.values = {};
    for (const [key, text] of [
      ["latency", "Latency"],
      ["rate", "Rate"],
      ["age", "Last prediction"],
      ["model", "Model"],
      ["engine", "Backend"],
      ["hop", "Hop"],
      ["node", "Node"],
      ["note", "Note"],
    ]) {
      const row = make("div", "fact");
      const value = make("dd", "num");
      row.append(make("dt", "", text), value);
      this.facts.append(row);
      this.values[key] = value;
    }
    side.append(this.choice, this.top, this.actions, this.facts);
    this.chart = make("div", "timeline");
    this.element.append(head, frame, side, this.chart);
    this.timeline = null;
  }

  // Show a button for each view, and return the chosen view.
  #chooseView(state) {
    const keys = state.views.map((view) => JSON.stringify([view.region, view.model_name]));
    const index = Math.max(0, keys.indexOf(this.chosen));
    const view = state.views[index];
    if (this.timeline === null || this.chosen !== keys[index]) {
      this.chosen = keys[index];
      this.timeline?.close();
      this.chart.replaceChildren();
      this.timeline = new Timeline(this.chart, this.stream, isPlain(state) ? null : view);
    }
    this.choice.hidden = isPlain(state);
    if (this.choice.hidden) return view;
    if (this.choice.dataset.keys !== keys.join()) {
      this.choice.dataset.keys = keys.join();
      this.choice.replaceChildren(
        ...keys.map((key) => {
          const button = make("button", "view-button");
          button.type = "button";
          button.append(make("bdi", "chip-view"), make("bdi", "chip-label"));
          button.addEventListener("click", () => {
            this.chosen = key;
            this.timeline.close();
            this.timeline = null;
            refresh();
          });
          return button;
        }),
      );
    }
    state.views.forEach((each, number) => {
      const button = this.choice.children[number];
      setText(button.firstChild, viewName(each) || "whole picture");
      setText(button.lastChild, labelsOf(each));
      setData(button, "action", each.actions.length ? "yes" : "no");
      const pressed = String(number === index);
      if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    });
    return view;
  }

  #row() {
    const item = make("li", "top-row");
    const label = make("bdi", "label");
    const probability = make("span", "probability num");
    const track = make("span", "bar-track");
    const fill = make("span", "bar-fill");
    track.append(fill);
    item.append(label, probability, track);
    this.top.append(item);
    return { item, label, probability, fill };
  }

  update(state, names) {
    const { word, reason } = stateOf(state);
    const isLive = word === "live";
    setText(this.name, state.name);
    setText(this.state, word);
    setData(this.state, "state", word);
    setData(this.element, "state", word);
    this.lost.hidden = isLive;
    setText(this.lostWord, word);
    setText(this.lostReason, reason);
    const view = this.#chooseView(state);
    this.regions.update(state.views);
    const shown = state.views.map((each) => `${viewName(each)} ${labelsOf(each)}`.trim()).join("; ");
    const [first] = state.top;
    const probability = isPlain(state) && first ? percent(first[1]) : "";
    setLabel(this.screen.canvas, `Picture of ${state.name}: ${shown} ${probability}`.trim());
    this.top.hidden = view.top.length === 0;
    this.rows.forEach((row, index) => {
      const [label, value] = view.top[index] ?? ["", undefined];
      row.item.hidden = value === undefined;
      setData(row.item, "present", view.present?.includes(label) ? "yes" : "no");
      setText(row.label, label);
      setText(row.probability, value === undefined ? "" : percent(value));
      row.fill.style.transform = `scaleX(${value ?? 0})`;
    });
    const running = state.views.flatMap((each) => each.actions.map((label) => [viewName(each), label].filter(Boolean).join(" · ")));
    setText(this.actions, running.length ? `Running actions: ${running.join(", ")}` : "");
    const facts = {
      latency: milliseconds(view.latency_ms),
      rate: view.rate === null ? "–" : `${view.rate.toFixed(1)} predictions/s`,
      age: view.predicted === null ? "none yet" : clock(new Date(view.predicted)),
      model: view.model ?? "–",
      engine: view.engine ?? "–",
      hop: state.hop === null ? "" : state.hop === 1 ? "1 chunk" : `${state.hop} chunks`,
      node: state.node ?? "",
      note: state.note ?? "",
    };
    for (const [key, text] of Object.entries(facts)) {
      setText(this.values[key], text);
      this.values[key].parentElement.hidden = text === "";
    }
    const index = names.indexOf(this.stream);
    this.previous.href = `/live/${names[(index - 1 + names.length) % names.length]}`;
    this.next.href = `/live/${names[(index + 1) % names.length]}`;
    this.previous.hidden = this.next.hidden = names.length < 2;
    this.timeline.add(view, state.name);
  }

  close() {
    this.timeline?.close();
    this.element.remove();
  }
}

const sight = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) inSight.add(entry.target.dataset.stream);
      else inSight.delete(entry.target.dataset.stream);
    }
    watch();
  },
  { rootMargin: "80px" },
);

function watch() {
  const names = connection.service?.streams ?? [];
  if (document.visibilityState === "hidden") connection.watch([]);
  else if (opened) connection.watch([opened]);
  else connection.watch(names.filter((name) => inSight.has(name)), names.filter((name) => !inSight.has(name)));
}

function arrange() {
  if (opened || tiles.size === 0) return;
  const width = root.clientWidth;
  const height = root.clientHeight;
  const grid = bestGrid(tiles.size, width, height, { gap: GAP, caption: CAPTION, smallest: SMALLEST_TILE });
  wall.style.setProperty("--columns", String(grid.columns));
  wall.style.setProperty("--tile-width", `${grid.width}px`);
  wall.style.setProperty("--picture-height", `${grid.height}px`);
  wall.dataset.scrolls = grid.scrolls ? "yes" : "no";
  wall.dataset.size = grid.width < 250 ? "small" : grid.width > 520 ? "big" : "middle";
}

function refresh() {
  const names = connection.service?.streams ?? [];
  if (names.join() !== [...tiles.keys()].join()) {
    for (const [name, tile] of tiles) {
      if (!names.includes(name)) {
        sight.unobserve(tile.item);
        inSight.delete(name);
        tile.item.remove();
        tiles.delete(name);
      }
    }
    for (const name of names) {
      const tile = tiles.get(name) ?? new Tile(name);
      tiles.delete(name); // the map has the order of the streams
      tiles.set(name, tile);
      if (wall.children[tiles.size - 1] !== tile.item) wall.insertBefore(tile.item, wall.children[tiles.size - 1] ?? null);
      sight.observe(tile.item);
    }
    arrange();
    watch();
  }
  for (const [name, tile] of tiles) {
    const state = connection.states.get(name);
    if (state) tile.update(state);
  }
  show();
}

// Show the opened stream, or the wall.
function show() {
  const names = connection.service?.streams ?? [];
  const state = opened ? connection.states.get(opened) : null;
  if (opened && !connection.isAway && !names.includes(opened)) {
    if (large.firstChild?.dataset.missing !== opened) {
      const text = withLink(`The service has no stream ${opened}. It was removed or renamed, or the address is wrong. `, "All streams", "/live");
      text.dataset.missing = opened;
      large.replaceChildren(text);
    }
    panel?.close();
    panel = null;
  } else if (opened && state) {
    if (panel?.stream !== opened) {
      panel?.close();
      panel = new Panel(opened);
      large.replaceChildren(panel.element);
    }
    panel.update(state, names);
  } else if (!opened && panel) {
    panel.close();
    panel = null;
    large.replaceChildren();
  }
  wall.hidden = Boolean(opened);
  large.hidden = !opened;
  empty.hidden = Boolean(opened) || names.length > 0 || connection.isAway;
  silent.hidden = names.length > 0 || connection.service === null || !connection.isAway; // the notice says why
}

const empty = withLink("The service has no streams. ", "Add a stream in Settings", "/settings");
const silent = make("p", "empty", "The streams appear here as soon as the service sends events.");
empty.hidden = silent.hidden = true;
root.append(empty, silent);

function withLink(text, linkText, path) {
  const line = make("p", "empty", text);
  const link = make("a", "", linkText);
  link.href = path;
  line.append(link);
  return line;
}

function go(path) {
  const from = opened;
  history.pushState(null, "", path);
  open(streamOf(path));
  if (opened) panel?.back.focus({ preventScroll: true });
  else if (from) tiles.get(from)?.link.focus();
}

function open(stream) {
  opened = stream;
  show();
  arrange();
  watch();
}

connection.addEventListener("states", refresh);
connection.addEventListener("away", refresh);
connection.addEventListener("picture", (event) => {
  const { stream, jpeg } = event.detail;
  const screen = panel?.stream === stream ? panel.screen : opened ? null : tiles.get(stream)?.screen;
  if (!screen) return;
  event.preventDefault();
  screen.draw(jpeg);
});
new ResizeObserver(arrange).observe(root);
document.addEventListener("visibilitychange", watch);
addEventListener("popstate", () => open(streamOf(location.pathname)));
root.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='/live']");
  if (!link || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
document.addEventListener("keydown", (event) => {
  if (event.metaKey || event.ctrlKey || event.altKey || event.target.closest?.("input, textarea, select")) return;
  if (opened) {
    if (event.key === "Escape") go("/live");
    else if (event.key === "ArrowLeft" && !event.target.closest?.(".timeline")) panel?.previous.click();
    else if (event.key === "ArrowRight" && !event.target.closest?.(".timeline")) panel?.next.click();
    return;
  }
  const links = [...tiles.values()].map((tile) => tile.link);
  const index = links.indexOf(document.activeElement);
  const columns = Number(wall.style.getPropertyValue("--columns")) || 1;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (index < 0 || !step || !links[index + step]) return;
  event.preventDefault();
  links[index + step].focus();
});
refresh();
