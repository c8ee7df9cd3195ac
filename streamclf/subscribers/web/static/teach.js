// The page Teach: choose a stream and a model, give examples, train, and make the model live.

import { connection, whenReady } from "/static/page.js";
import { call, el, field, setText } from "/static/dom.js";
import { Marker } from "/static/teach_mark.js";
import { Examples } from "/static/teach_examples.js";
import { Models } from "/static/teach_models.js";

const REFRESH_MS = 3_000;
const NAME = "[A-Za-z0-9_][A-Za-z0-9_\\-]{0,63}"; // browsers read it with the flag v, in which - has to be escaped
const STORED = "streamclf-teach";

class TeachPage {
  state = null; // as in GET /api/teach
  project = null; // as in GET /api/teach/projects/NAME
  #root;
  #clockMs = 0; // the service's clock minus this browser's
  #refreshing = null;
  #isOfReading = false; // whether the shown problem is one of reading the state
  #message = el("p", { class: "teach-message", role: "status" });
  #problem = el("p", { class: "settings-problem", role: "alert", hidden: true });
  #news = el("div", { class: "settings-news" }, this.#message, this.#problem); // stays in sight
  #streams = el("select", { id: "teach-stream", onchange: () => this.#chosen() });
  #regions = el("select", { id: "teach-region", onchange: () => this.#chosen() });
  #regionField = field("Region", this.#regions);
  #noStream = el("p", { class: "settings-hint", hidden: true }, "There is no stream to take examples from. Add a stream in Settings, or continue a paused one.");
  #names = el("datalist", { id: "teach-names" });
  #name = el("input", { id: "teach-name", list: "teach-names", pattern: NAME, maxlength: 64, required: true, spellcheck: "false",
    autocomplete: "off", title: "1 to 64 characters of A-Z a-z 0-9 _ -", onchange: () => this.#chosen() });

  constructor(root) {
    this.#root = root;
    this.marker = new Marker(this);
    this.examples = new Examples(this);
    this.models = new Models(this);
  }

  async open() {
    await this.refresh();
    setInterval(() => {
      if (document.visibilityState === "visible" && !this.marker.isBusy) this.refresh();
    }, REFRESH_MS);
  }

  get stream() { return this.#streams.value; }
  get region() { return this.#regions.value || null; }
  get name() { return this.#name.value.trim(); }
  get labels() { return (this.project?.labels ?? []).map((each) => each.label); }
  get now() { return (Date.now() + this.#clockMs) / 1000; }
  get base() { return `/api/teach/projects/${encodeURIComponent(this.name)}`; }

  // Read the state again, once at a time; callers that come meanwhile get one further reading.
  async refresh() {
    if (this.#refreshing) await this.#refreshing;
    this.#refreshing ??= this.#read().finally(() => { this.#refreshing = null; });
    return this.#refreshing;
  }

  async #read() {
    try {
      const began = Date.now();
      const state = await call("/api/teach");
      this.#clockMs = state.now * 1000 - (began + Date.now()) / 2;
      this.#show(state);
      if (state.available && this.#name.checkValidity()) {
        this.project = await call(this.base);
        this.marker.show();
        this.examples.show();
      }
      this.models.show();
      if (this.#isOfReading) this.fail("");
    } catch (error) {
      this.fail(`The examples cannot be read: ${error.message}.`);
      this.#isOfReading = true;
    }
  }

  // Send a change, and show `said` or the error. Returns the answer, or null after an error.
  async send(path, body, said, method = "POST") {
    this.fail("");
    try {
      const options = body === undefined ? { method } : { method, body: JSON.stringify(body) };
      const answer = await call(path, options) ?? {};
      if (said) this.say(typeof said === "function" ? said(answer) : said);
      await this.refresh();
      return answer;
    } catch (error) {
      this.say("");
      await this.refresh();
      this.fail(error.status === undefined ? `The change may not have been made: ${error.message}.` : `Not done: ${error.message}`);
      return null;
    }
  }

  say(text) { setText(this.#message, text); }

  fail(text) {
    this.#isOfReading = false;
    if (!this.#problem.isConnected) this.#root.prepend(this.#news);
    setText(this.#problem, text);
    this.#problem.hidden = text === "";
  }

  async #enable(button) {
    button.disabled = true;
    const changes = await this.send("/api/teach/enable", undefined, "Written to the configuration. The service applies it within two seconds.");
    if (!changes) button.disabled = false;
  }

  #show(state) {
    const first = this.state === null || this.state.available !== state.available;
    this.state = state;
    if (!state.available) {
      if (!first) return;
      const enable = el("button", { type: "button", class: "button button-main", onclick: () => this.#enable(enable) }, "Add it");
      this.#root.replaceChildren(el("p", { class: "settings-hint" }, state.reason), ...(state.can_enable ? [exampleOfSection(), el("div", { class: "settings-buttons" }, enable)] : []),
        this.#news);
      return;
    }
    if (first) this.#layOut();
    this.#noStream.hidden = state.streams.length > 0;
    const known = state.streams.map((each) => [each.stream, each.name ? `${each.name} (${each.stream})` : each.stream]);
    fill(this.#streams, known);
    const chosen = state.streams.find((each) => each.stream === this.stream);
    fill(this.#regions, Object.keys(chosen?.models ?? {}).map((name) => [name, name || "whole picture"]));
    this.#regionField.hidden = Object.keys(chosen?.models ?? {}).every((name) => name === "");
    if (this.#names.childElementCount !== state.projects.length) {
      this.#names.replaceChildren(...state.projects.map((name) => el("option", { value: name })));
    }
    if (first) this.#restore();
    connection.watch(this.stream ? [this.stream] : []);
  }

  // Open the page with the choice that this browser had before.
  #restore() {
    let stored = {};
    try { stored = JSON.parse(localStorage.getItem(STORED)) ?? {}; } catch { /* a browser without storage */ }
    if (this.state.streams.some((each) => each.stream === stored.stream)) this.#streams.value = stored.stream;
    const regions = this.state.streams.find((each) => each.stream === this.stream)?.models ?? {};
    fill(this.#regions, Object.keys(regions).map((name) => [name, name || "whole picture"]));
    if (stored.region in regions) this.#regions.value = stored.region;
    this.#name.value = stored.name || this.state.projects[0] || this.stream || "";
    this.marker.restart();
  }

  #chosen() {
    try {
      localStorage.setItem(STORED, JSON.stringify({ stream: this.stream, region: this.#regions.value, name: this.name }));
    } catch { /* a browser without storage */ }
    connection.watch(this.stream ? [this.stream] : []);
    this.marker.restart();
    this.project = null;
    this.say("");
    if (!this.#name.reportValidity()) return;
    this.refresh();
  }

  #layOut() {
    this.#root.replaceChildren(
      el("div", { class: "teach-choice" },
        field("Stream", this.#streams), this.#regionField, field("Name of the model", this.#name), this.#names),
      el("p", { class: "settings-hint", hidden: !this.state.missing }, this.state.missing ?? ""),
      this.#noStream,
      this.#news,
      this.marker.element, this.models.element, this.examples.element);
  }
}

// Set the options of a select element, and keep its value where it is still there.
function fill(select, options) {
  const key = JSON.stringify(options);
  if (select.dataset.options === key) return;
  const value = select.value;
  select.dataset.options = key;
  select.replaceChildren(...options.map(([name, text]) => el("option", { value: name }, text)));
  if (options.some(([name]) => name === value)) select.value = value;
}

function exampleOfSection() {
  return el("pre", { class: "settings-diff", tabindex: "0", "aria-label": "The section to add" },
    "examples:\n  last_s: 60       # seconds of each stream that can still be saved\n");
}

const page = new TeachPage(await whenReady("teach"));
await page.open();
