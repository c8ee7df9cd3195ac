// The thresholds of one action, and a preview: which actions the last hour would have had with them.

import { call, clock, describeLine, duration, el, setText, timeOfDay } from "/static/dom.js";

const DELAY_MS = 250; // after the last move of a slider
const LISTED = 12;
const FIELDS = [
  { key: "on", label: "On: the action starts at this probability", max: 1, step: 0.01, unit: "" },
  { key: "off", label: "Off: the action ends below this probability", max: 0.99, step: 0.01, unit: "" },
  { key: "min_s", label: "Time at “on” or above until it starts", max: 30, step: 0.1, unit: "s", limit: 3600 },
  { key: "cooldown_s", label: "Time after an end until it can start again", max: 120, step: 0.5, unit: "s", limit: 86400 },
];
const HELD = "Actions marked “or longer” might be held until the scene is back, and then also last during the actions that follow them. " +
  "The preview cannot know this: the service compares the picture with the scene only while it reports an action.";
const DEFAULTS = { on: 0.8, off: 0.5, min_s: 0.6, cooldown_s: 3 };
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [960, 150];

export class Thresholds {
  #owner;
  #stream = select("Stream");
  #region = select("Region");
  #label = select("Action");
  #scope = select("Apply changes to");
  #sliders = new Map(FIELDS.map((field) => [field.key, new Slider(field, () => this.#changed())]));
  #text = el("p", { class: "settings-preview-text", role: "status" });
  #note = el("p", { class: "quiet" });
  #limits = el("p", { class: "settings-limits" });
  #chart = el("div", { class: "settings-chart" });
  #list = el("ol", { class: "settings-firings" });
  #save = el("button", { type: "button", class: "button button-main", onclick: () => this.#submit() }, "Save");
  #remove = el("button", { type: "button", class: "button button-danger", onclick: () => this.#submitRemoval() }, "Remove");
  #reset = el("button", { type: "button", class: "button", onclick: () => this.#load() }, "Reset to the present values");
  #timer = null;
  #request = 0;
  #loaded = "";
  #shown = "";

  constructor(owner) {
    this.#owner = owner;
    this.#stream.box.addEventListener("change", () => this.#load());
    this.#region.box.addEventListener("change", () => this.#load());
    this.#label.box.addEventListener("change", () => this.#load());
    this.#scope.box.addEventListener("change", () => this.#showButtons());
    this.element = el("section", { class: "settings-section", "aria-labelledby": "thresholds-title" },
      el("h2", { id: "thresholds-title" }, "Thresholds"),
      el("div", { class: "settings-row" }, this.#stream.field, this.#region.field, this.#label.field, this.#scope.field),
      el("div", { class: "settings-sliders" }, ...[...this.#sliders.values()].map((each) => each.element)),
      this.#text, this.#limits, this.#chart, this.#list, this.#note,
      el("div", { class: "settings-buttons" }, this.#save, this.#reset, this.#remove));
  }

  show(settings) {
    this.element.hidden = settings.labels.length === 0;
    if (this.element.hidden) return;
    fill(this.#stream.box, settings.streams.map(({ stream, name }) => [stream, name ?? stream]));
    const streams = settings.streams.find(({ stream }) => stream === this.#stream.box.value);
    this.#offerRegions();
    const known = Object.keys(streams?.actions ?? {});
    const others = settings.labels.filter((label) => !known.includes(label));
    fill(this.#label.box, [...known.map((label) => [label, label]), ...others.map((label) => [label, `${label} (no action yet)`])]);
    fill(this.#scope.box, [["all", "all streams"], ["one", `the stream ${this.#stream.box.value} alone`]]);
    const shown = JSON.stringify([this.#stream.box.value, this.#label.box.value, this.#present]);
    if (shown !== this.#shown) this.#load();
    this.#showButtons();
  }

  // A stream with regions is previewed region by region.
  #offerRegions() {
    const regions = (this.#settings?.area?.regions ?? []).map(({ name }) => name).filter(Boolean);
    this.#region.field.hidden = regions.length === 0;
    fill(this.#region.box, regions.map((region) => [region, region]));
  }

  get #settings() {
    return this.#owner.settings.streams.find(({ stream }) => stream === this.#stream.box.value);
  }

  get #present() {
    return this.#settings?.actions[this.#label.box.value] ?? null;
  }

  get #values() {
    return Object.fromEntries([...this.#sliders].map(([key, slider]) => [key, slider.value]));
  }

  #load() {
    this.#offerRegions();
    const stream = this.#stream.box.value;
    const label = this.#label.box.value;
    const own = this.#settings?.own_actions.includes(label) ?? false;
    const choice = `${stream} ${label}`;
    if (this.#loaded !== choice) this.#scope.box.value = own ? "one" : "all";
    this.#loaded = choice;
    this.#shown = JSON.stringify([stream, label, this.#present]);
    fill(this.#scope.box, [["all", "all streams"], ["one", `the stream ${stream} alone`]]);
    for (const [key, slider] of this.#sliders) slider.value = (this.#present ?? DEFAULTS)[key];
    this.#showButtons();
    this.#preview();
  }

  #showButtons() {
    const own = this.#settings?.own_actions.includes(this.#label.box.value) ?? false;
    const isOne = this.#scope.box.value === "one";
    const present = this.#present;
    const isGlobal = this.#label.box.value in this.#owner.settings.actions;
    const differs = present === null || FIELDS.some(({ key }) => Math.abs(present[key] - this.#values[key]) > 1e-9);
    this.#save.disabled = !this.#owner.isEditable || !differs || !this.#isValid;
    setText(this.#save, present === null ? "Report as an action" : "Save");
    this.#reset.disabled = !differs;
    this.#remove.hidden = isOne ? !own : !isGlobal;
    this.#remove.disabled = !this.#owner.isEditable;
    setText(this.#remove, isOne ? "Use the thresholds of all streams" : "Stop reporting it");
    setText(this.#note, own && !isOne
      ? `This stream has thresholds of its own for ${this.#label.box.value}. They stay when you change those of all streams.` : "");
  }

  get #isValid() {
    return this.#values.off < this.#values.on && [...this.#sliders.values()].every((slider) => slider.isValid);
  }

  #changed() {
    this.#showButtons();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#preview(), DELAY_MS);
  }

  async #preview() {
    const request = ++this.#request;
    const wrong = [...this.#sliders.values()].find((slider) => !slider.isValid);
    if (!this.#isValid) {
      const { on, off } = this.#values;
      setText(this.#text, wrong?.limits ?? `“Off” is ${off}. It must be lower than “on”, which is ${on}.`);
      return;
    }
    const region = this.#region.field.hidden ? null : this.#region.box.value;
    const body = { stream: this.#stream.box.value, region, label: this.#label.box.value, ...this.#values };
    try {
      const preview = await call("/api/settings/preview", { method: "POST", body: JSON.stringify(body) });
      if (request === this.#request) this.#showPreview(preview, body);
    } catch (error) {
      if (request === this.#request) {
        setText(this.#text, `No preview: ${error.message}.`);
        setText(this.#limits, "");
        this.#chart.replaceChildren();
        this.#list.replaceChildren();
      }
    }
  }

  #showPreview(preview, body) {
    const times = (count) => (count === 1 ? "once" : `${count} times`);
    const present = preview.present === null ? "now it is not reported as an action" : `with the present ones ${times(preview.present_count)}`;
    const hour = preview.end - preview.begin >= 3595 ? "the last hour" : `the last ${duration(preview.end - preview.begin)}`;
    setText(this.#text, preview.predictions === 0
      ? "The journal has no predictions of this stream in the last hour."
      : `With these thresholds, the action would have started ${times(preview.tried_count)} in ${hour}; ${present}.`);
    this.#text.dataset.count = preview.tried_count;
    const of = [this.#stream.box.selectedOptions[0].text, body.region].filter(Boolean).join(" · ");
    this.#chart.replaceChildren(draw(preview, body, `Chart of ${of}: probability of ${body.label} in ${hour}`));
    const listed = preview.tried.slice(-LISTED).reverse();
    this.#list.replaceChildren(...listed.map((firing) => el("li", {},
      `${clock(new Date(1000 * firing.fired_s))}, ` +
      `${firing.ended_s === null ? "still running" : duration(firing.ended_s - firing.began_s)}` +
      `${firing.may_be_held ? " or longer" : ""}, up to ${firing.peak.toFixed(2)}`)));
    if (preview.tried_count > LISTED) this.#list.append(el("li", { class: "more" }, `and ${preview.tried_count - LISTED} earlier ones`));
    setText(this.#limits, [
      preview.tried.some(({ may_be_held }) => may_be_held) && HELD,
      preview.partial && "Events hold the ten most probable labels. Where this label is not among them, it counts as 0.",
    ].filter(Boolean).join(" "));
  }

  async #submit() {
    const stream = this.#scope.box.value === "one" ? this.#stream.box.value : null;
    await this.#owner.edit({ change: "set_action", label: this.#label.box.value, stream, ...this.#values });
  }

  async #submitRemoval() {
    const stream = this.#scope.box.value === "one" ? this.#stream.box.value : null;
    await this.#owner.edit({ change: "remove_action", label: this.#label.box.value, stream });
  }
}

// A slider with a box for exact values beyond its range.
class Slider {
  constructor({ key, label, max, step, unit, limit }, onChange) {
    this.limits = `${label}: give a number from 0 to ${limit ?? max}${unit && ` ${unit}`}.`;
    this.range = el("input", { type: "range", min: 0, max, step, "aria-label": label, "data-key": key });
    this.box = el("input", { type: "number", min: 0, max: limit ?? max, step: "any", "aria-label": `${label}, exact value` });
    this.element = el("div", { class: "settings-slider" },
      el("span", { "aria-hidden": "true" }, unit ? `${label} (${unit})` : label), this.range, this.box);
    this.range.addEventListener("input", () => {
      this.box.value = this.range.value;
      onChange();
    });
    this.box.addEventListener("input", () => {
      this.range.value = this.box.value;
      onChange();
    });
  }

  get value() {
    return this.box.valueAsNumber;
  }

  set value(number) {
    this.box.value = this.range.value = String(number);
    this.box.value = String(number);
  }

  get isValid() {
    return this.box.value !== "" && this.box.checkValidity();
  }
}

// Draw the probability of the label, the two thresholds, and the stretches of the actions.
function draw(preview, { on, off }, title) {
  const begin = Math.min(preview.begin, preview.end - 60);
  const span = preview.end - begin;
  const x = (time) => (WIDTH * (time - begin)) / span;
  const y = (probability) => 4 + (HEIGHT - 8) * (1 - probability);
  const count = `${preview.tried_count} action${preview.tried_count === 1 ? "" : "s"}`;
  const line = describeLine(preview.curve.map(([time]) => 1000 * time), preview.curve.map(([, value]) => value), (value) => value.toFixed(2));
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": [`${title}, with ${count}`, line].filter(Boolean).join(": ") });
  for (const firing of preview.tried) {
    const left = Math.max(0, x(firing.began_s));
    svg.append(shape("rect", { class: "firing", x: left, y: 0, height: HEIGHT,
      width: Math.max(2, x(firing.ended_s ?? preview.end) - left) }));
  }
  for (const [value, name] of [[on, "on"], [off, "off"]]) {
    svg.append(shape("line", { class: `threshold threshold-${name}`, x1: 0, x2: WIDTH, y1: y(value), y2: y(value) }));
  }
  let path = "";
  let before = -Infinity;
  for (const [time, probability] of preview.curve) {
    path += `${time - before > 30 ? "M" : "L"}${x(time).toFixed(1)} ${y(probability).toFixed(1)}`;
    before = time;
  }
  if (path) svg.append(shape("path", { class: "curve", d: path }));
  const axis = el("div", { class: "settings-axis", "aria-hidden": "true" },
    ...[0, 1, 2, 3, 4].map((part) => el("span", {}, timeOfDay(new Date(1000 * (begin + (part * span) / 4))).slice(0, span > 1200 ? 5 : 8))));
  return el("div", {}, svg, axis);
}

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function select(label) {
  const id = `settings-${label.toLowerCase().replaceAll(" ", "-")}`;
  const box = el("select", { id });
  return { box, field: el("div", { class: "settings-field" }, el("label", { for: id }, label), box) };
}

// Show these choices, and keep the chosen one where it still exists.
function fill(box, choices) {
  const shown = JSON.stringify(choices);
  if (box.dataset.choices === shown) return;
  box.dataset.choices = shown;
  const before = box.value;
  box.replaceChildren(...choices.map(([value, text]) => el("option", { value }, text)));
  if (choices.some(([value]) => value === before)) box.value = before;
}
