// Mark what happens: hold a key or a button while it happens, or mark a stretch of the last minute.

import { connection, stateOf } from "/static/page.js";
import { call, duration, el, field, percent, setText } from "/static/dom.js";
import { Strip } from "/static/teach_strip.js";

const SHORTEST_S = 1; // a tap saves the second before it
const MODELS_MS = 1000;
const MARGIN_S = 3; // a mark ends so long before the service would forget its begin

export class Marker {
  #page;
  #held = null; // { label, begin, source } while a key or button is held
  #saving = 0;
  #busy = false;
  #waiting = null;
  #timer = null;
  #canvas = el("canvas", { class: "teach-picture", width: 16, height: 9, role: "img", "aria-label": "Live picture" });
  #state = el("p", { class: "teach-live", role: "status" });
  #models = el("ul", { class: "teach-says", "aria-label": "Latest prediction of each model" });
  #now = el("p", { class: "teach-now" });
  #strip;
  #from = number("from", 6);
  #to = number("to", 2);
  #labels = el("ul", { class: "teach-labels" });
  #newLabel = el("input", { maxlength: 256, placeholder: "open", autocomplete: "off" });
  #stretchLabel = el("select", { id: "teach-stretch-label" });

  constructor(page) {
    this.#page = page;
    this.#strip = new Strip(page);
    const addForm = el("form", { class: "teach-add", onsubmit: (event) => this.#addLabel(event) },
      field("New label", this.#newLabel), el("button", { type: "submit", class: "button" }, "Add label"));
    const stretchForm = el("form", { class: "teach-stretch", onsubmit: (event) => this.#saveStretch(event) },
      field("From, seconds ago", this.#from), field("To, seconds ago", this.#to), field("Label", this.#stretchLabel),
      el("button", { type: "submit", class: "button" }, "Save the stretch"));
    this.element = el("section", { class: "teach-mark", "aria-label": "Examples" },
      el("div", { class: "teach-screen" }, this.#canvas, this.#state, this.#models, this.#now),
      el("div", { class: "teach-panel" },
        el("h2", {}, "Labels"),
        el("p", { class: "quiet" }, "Hold the number key or the button of a label while the picture shows it. A tap saves the second before it. Escape discards the example."),
        this.#labels, addForm),
      el("details", { class: "teach-last" }, el("summary", {}, "Mark an earlier stretch"),
        ...this.#strip.elements, stretchForm));
    connection.addEventListener("picture", (event) => this.#take(event));
    connection.addEventListener("states", () => this.#showState());
    connection.addEventListener("away", () => this.#showState());
    document.addEventListener("keydown", (event) => this.#keyDown(event));
    document.addEventListener("keyup", (event) => this.#keyUp(event));
    globalThis.addEventListener("blur", () => this.#release());
    setInterval(() => this.#askModels(), MODELS_MS);
    for (const box of [this.#from, this.#to]) box.addEventListener("input", () => this.#typed());
  }

  get isBusy() { return this.#held !== null; }

  // Begin again with another stream.
  restart() {
    this.#drop();
    this.#labels.dataset.key = "";
    this.#canvas.width = 16;
    this.#canvas.height = 9;
    this.#showState();
    this.#strip.clear();
  }

  show() {
    const labels = this.#page.project.labels;
    const key = JSON.stringify([this.#page.name, labels]);
    if (this.#labels.dataset.key !== key) {
      const focused = this.#labels.contains(document.activeElement) ? document.activeElement.dataset.label : null;
      this.#labels.dataset.key = key;
      this.#labels.replaceChildren(...labels.map((each, index) => this.#labelItem(each, index)));
      if (focused !== null) [...this.#labels.querySelectorAll("[data-label]")].find((each) => each.dataset.label === focused)?.focus();
      const chosen = this.#stretchLabel.value;
      this.#stretchLabel.replaceChildren(...labels.map((each) => el("option", { value: each.label }, each.label)));
      if (labels.some((each) => each.label === chosen)) this.#stretchLabel.value = chosen;
    }
  }

  #labelItem(entry, index) {
    const key = index < 9 ? String(index + 1) : "";
    const { enough, good } = this.#page.state;
    const button = el("button", { type: "button", class: "teach-hold", "data-label": entry.label, "data-index": index,
      "aria-label": `Hold to record ${entry.label}${key ? `, key ${key}` : ""}` },
      key ? el("kbd", {}, key) : null, el("span", { class: "teach-hold-name" }, entry.label));
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      this.#hold(entry.label, "pointer");
    });
    for (const kind of ["pointerup", "lostpointercapture"]) button.addEventListener(kind, () => this.#release("pointer"));
    button.addEventListener("pointercancel", () => this.#drop());
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    const meter = el("meter", { min: 0, max: good, low: enough, high: good - 1, optimum: good, value: Math.min(entry.count, good),
      "aria-label": `Examples of ${entry.label}` });
    return el("li", { class: "teach-label" }, button, meter,
      el("span", { class: "teach-count num" }, `${entry.count} · ${duration(entry.seconds)}`),
      entry.count === 0 ? el("button", { type: "button", class: "icon-button", "aria-label": `Remove the label ${entry.label}`,
        onclick: () => this.#page.send(`${this.#page.base}/labels?label=${encodeURIComponent(entry.label)}`, undefined, "", "DELETE") }, "×") : null);
  }

  async #addLabel(event) {
    event.preventDefault();
    const label = this.#newLabel.value.trim();
    if (!label) return;
    if (await this.#page.send(`${this.#page.base}/labels`, { label }, `Added the label ${label}.`)) this.#newLabel.value = "";
  }

  #keyDown(event) {
    if (event.key === "Escape" && this.#held) {
      this.#drop();
      this.#page.say("Discarded.");
      return;
    }
    const focused = event.target.closest?.(".teach-hold");
    if (focused && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      if (!event.repeat) this.#hold(focused.dataset.label, event.key);
      return;
    }
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || isField(event.target)) return;
    const label = /^[1-9]$/.test(event.key) ? this.#page.labels[Number(event.key) - 1] : undefined;
    if (label === undefined) return;
    event.preventDefault();
    this.#hold(label, event.key);
  }

  #keyUp(event) {
    if (this.#held?.source === event.key) this.#release(event.key);
  }

  #hold(label, source) {
    if (this.#held || this.#page.state === null) return;
    this.#held = { label, source, begin: this.#page.now, stream: this.#page.stream, region: this.#page.region };
    this.#page.fail("");
    this.#timer = setInterval(() => this.#tick(), 100);
    this.#tick();
  }

  #tick() {
    const seconds = this.#page.now - this.#held.begin;
    setText(this.#now, `● ${this.#held.label} ${seconds.toFixed(1)} s`);
    for (const button of this.#labels.querySelectorAll(".teach-hold")) {
      button.toggleAttribute("data-held", button.dataset.label === this.#held.label);
    }
    if (seconds > Math.max(2, this.#page.state.last_s - MARGIN_S)) this.#release();
  }

  #drop() {
    clearInterval(this.#timer);
    this.#held = null;
    setText(this.#now, "");
    for (const button of this.#labels.querySelectorAll("[data-held]")) button.removeAttribute("data-held");
  }

  #release(source = this.#held?.source) {
    const held = this.#held;
    if (!held || held.source !== source) return;
    this.#drop();
    const end = this.#page.now;
    this.#save({ ...held, begin: Math.min(held.begin, end - SHORTEST_S), end });
  }

  async #save({ label, begin, end, stream, region }) {
    this.#saving += 1;
    this.#page.say(`Saving ${label}…`);
    const body = { stream, region, label, begin, end };
    const saved = await this.#page.send(`${this.#page.base}/save`, body,
      (answer) => `Saved ${duration(answer.seconds)} of ${label}.`);
    this.#saving -= 1;
    return saved;
  }

  async #saveStretch(event) {
    event.preventDefault();
    const label = this.#stretchLabel.value;
    if (!label) return this.#page.fail("There is no label yet. Add one first.");
    const mark = this.#strip.mark ?? this.#typedMark();
    const { min_s } = this.#page.state;
    if (mark.end - mark.begin < min_s) {
      return this.#page.fail(`“From” is ${this.#from.value} s ago, “To” is ${this.#to.value} s ago. The stretch must last at least ${min_s} s, so “From” must be larger than “To”.`);
    }
    const saved = await this.#save({ ...mark, label, stream: this.#page.stream, region: this.#page.region });
    if (saved) this.#strip.mark = null;
    this.#strip.draw();
    return undefined;
  }

  #typedMark() {
    const now = this.#page.now;
    return { begin: now - Number(this.#from.value), end: now - Number(this.#to.value) };
  }

  #typed() {
    this.#strip.mark = null;
    this.#strip.draw();
  }

  async #take(event) {
    const { stream, jpeg } = event.detail;
    if (stream !== this.#page.stream || !this.element.isConnected) return;
    event.preventDefault();
    if (this.#busy) {
      if (this.#waiting) connection.confirm(stream);
      this.#waiting = event;
      return;
    }
    this.#busy = true;
    try {
      const image = await createImageBitmap(jpeg);
      if (stream === this.#page.stream) await this.#draw(image);
      image.close();
    } catch {
      // a picture that cannot be decoded; the next one follows
    }
    this.#busy = false;
    connection.confirm(stream);
    const next = this.#waiting;
    this.#waiting = null;
    if (next) this.#take(next);
  }

  async #draw(image) {
    if (this.#canvas.width !== image.width || this.#canvas.height !== image.height) {
      this.#canvas.width = image.width;
      this.#canvas.height = image.height;
    }
    const drawing = this.#canvas.getContext("2d", { alpha: false });
    drawing.drawImage(image, 0, 0);
    const region = this.#page.state.streams.find((each) => each.stream === this.#page.stream)?.regions[this.#page.region ?? ""];
    if (region) {
      const [left, top, right, bottom] = region;
      const { width, height } = image;
      drawing.strokeStyle = "#7fd1ae";
      drawing.lineWidth = Math.max(2, width / 200);
      drawing.strokeRect(left * width, top * height, (right - left) * width, (bottom - top) * height);
    }
    this.#canvas.dataset.pictures = String(Number(this.#canvas.dataset.pictures ?? 0) + 1);
    await this.#strip.add(image);
  }

  // Show what each model of the stream says now.
  async #askModels() {
    const { stream, region } = this.#page;
    if (!stream || !this.element.isConnected || document.visibilityState !== "visible" || connection.isAway || !this.#state.hidden) return;
    const query = region ? `?region=${encodeURIComponent(region)}` : "";
    let found;
    try {
      found = await call(`/api/teach/predictions/${stream}${query}`);
    } catch (error) {
      this.#models.replaceChildren(el("li", {}, `The predictions cannot be read: ${error.message}.`));
      return;
    }
    if (stream !== this.#page.stream) return;
    this.#models.replaceChildren(...found.filter((each) => each.top.length).map((each) =>
      el("li", { "data-model": each.model }, found.length > 1 ? el("span", { class: "teach-model" }, each.model) : null,
        `${each.top[0][0]} ${percent(each.top[0][1])}`)));
  }

  #showState() {
    const { word, reason } = stateOf(connection.states.get(this.#page.stream));
    this.#state.hidden = word === "live";
    setText(this.#state, reason ? `${word}: ${reason}` : word);
    if (word !== "live") this.#models.replaceChildren();
  }
}

function number(name, value) {
  return el("input", { type: "number", name, value, min: 0, max: 600, step: 0.1, required: true });
}

function isField(element) {
  return element.matches?.("input, select, textarea, video, [contenteditable]") || document.querySelector("dialog[open]") !== null;
}
