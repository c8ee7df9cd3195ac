// The filters of the page Events. They are in its address, so that a link shows the same list.
import { call, el } from "/static/dom.js";

const KEYS = ["stream", "region", "model", "label", "text", "since", "until", "starred"];
const AGES = { "": "Any time", "1h": "Last hour", "24h": "Last 24 hours", "7d": "Last 7 days", own: "Choose a period" };
const AGE_MS = { "1h": 3600e3, "24h": 86400e3, "7d": 7 * 86400e3 };
const TYPING_MS = 250;

export class Filters {
  #changed;
  #failed;
  #timer = null;
  #age = "";
  #address = new URLSearchParams();

  // `changed` is called after a choice, `failed` with a text for people.
  constructor(changed, failed) {
    this.#changed = changed;
    this.#failed = failed;
    this.stream = this.#select("Stream", "stream", "All streams");
    this.region = this.#select("Region", "region", "All regions", "whole picture");
    this.model = this.#select("Model", "model", "All models", "model without a name");
    this.region.root.hidden = this.model.root.hidden = true;
    this.label = this.#select("Label", "label", "All labels");
    this.age = el("select", { id: "filter-age", name: "age", onchange: () => this.#ageChosen() });
    for (const [value, text] of Object.entries(AGES)) this.age.append(el("option", { value }, text));
    this.since = this.#moment("since", "From");
    this.until = this.#moment("until", "Until");
    this.text = el("input", { id: "filter-text", type: "search", maxlength: 200, placeholder: "Stream, name, region, model or label" });
    this.text.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#take(), TYPING_MS);
    });
    this.starred = el("input", { id: "filter-starred", type: "checkbox", onchange: () => this.#take() });
    this.clear = el("button", { type: "button", class: "button", onclick: () => this.#clear() }, "Clear filters");
    this.range = el("span", { class: "filter-range", hidden: true }, this.since.root, this.until.root);
    this.form = el(
      "form",
      { class: "events-filters", role: "search", "aria-label": "Filter events", onsubmit: (event) => event.preventDefault() },
      this.stream.root,
      this.region.root,
      this.model.root,
      this.label.root,
      el("label", { class: "filter", for: "filter-age" }, el("span", {}, "Time"), this.age),
      this.range,
      el("label", { class: "filter filter-wide", for: "filter-text" }, el("span", {}, "Text"), this.text),
      el("label", { class: "filter filter-check", for: "filter-starred" }, this.starred, el("span", {}, "Starred only")),
      this.clear,
    );
    for (const { select } of this.#selects) select.addEventListener("focus", () => this.#offer());
    this.#offer();
  }

  get #selects() {
    return [this.stream, this.region, this.model, this.label];
  }

  get isActive() {
    return [...this.#address.keys()].length > 0;
  }

  // Take the filters from the page's address.
  read() {
    const given = new URLSearchParams(location.search);
    this.#address = new URLSearchParams();
    for (const key of KEYS) for (const value of given.getAll(key)) this.#address.append(key, value);
    this.#age = AGE_MS[given.get("age")] ? given.get("age") : "";
    if (this.#age) this.#address.set("age", this.#age);
    this.#showValues();
  }

  // Return the address of `page` with the filters in it.
  path(page) {
    const url = new URL(page, location.origin);
    for (const [key, value] of this.#address) url.searchParams.append(key, value);
    return url.pathname + url.search;
  }

  // Return the query of the REST request.
  query() {
    const query = new URLSearchParams(this.#address);
    query.delete("age");
    if (this.#age) query.set("since", new Date(Date.now() - AGE_MS[this.#age]).toISOString());
    if (query.get("starred")) query.set("starred", "true");
    for (const key of ["since", "until"]) {
      const date = new Date(query.get(key) ?? NaN);
      if (isNaN(date)) query.delete(key);
      else query.set(key, date.toISOString());
    }
    return query;
  }

  setUntil(date) {
    this.#age = "";
    this.#address.delete("age");
    this.#address.set("until", date.toISOString());
    this.#showValues();
  }

  #select(text, key, all, empty = "") {
    const select = el("select", { id: `filter-${key}`, name: key, onchange: () => this.#take() }, el("option", { value: "" }, all));
    return { select, key, empty, root: el("label", { class: "filter", for: `filter-${key}` }, el("span", {}, text), select) };
  }

  #moment(key, text) {
    const input = el("input", { id: `filter-${key}`, type: "datetime-local", step: 1, onchange: () => this.#take() });
    return { input, root: el("label", { class: "filter", for: `filter-${key}` }, el("span", {}, text), input) };
  }

  #ageChosen() {
    this.range.hidden = this.age.value !== "own";
    if (this.age.value === "own") this.since.input.focus();
    this.#take();
  }

  #take() {
    clearTimeout(this.#timer);
    const address = new URLSearchParams();
    for (const { select, key } of this.#selects) {
      const several = this.#address.getAll(key); // a link may name several, which the form shows as one choice
      if (select.value === "several") several.forEach((value) => address.append(key, value));
      else if (select.value) address.append(key, select.value.slice(1));
    }
    this.#age = AGE_MS[this.age.value] ? this.age.value : "";
    if (this.#age) address.set("age", this.#age);
    if (this.age.value === "own") {
      if (this.since.input.value) address.set("since", new Date(this.since.input.value).toISOString());
      if (this.until.input.value) address.set("until", new Date(this.until.input.value).toISOString());
    }
    if (this.text.value.trim()) address.set("text", this.text.value.trim());
    if (this.starred.checked) address.set("starred", "1");
    this.#address = address;
    this.#showValues();
    this.#changed();
  }

  #clear() {
    this.#address = new URLSearchParams();
    this.#age = "";
    this.age.value = "";
    this.#showValues();
    this.#changed();
  }

  #showValues() {
    for (const { select, key, empty, root } of this.#selects) {
      const values = this.#address.getAll(key);
      select.querySelector("[value=several]")?.remove();
      if (values.length > 1) select.append(el("option", { value: "several" }, values.map((value) => value || empty).join(", ")));
      else if (values.length === 1) this.#addOption(select, values[0], values[0] || empty);
      if (values.length) root.hidden = false;
      select.value = values.length > 1 ? "several" : values.length === 1 ? `=${values[0]}` : "";
    }
    const local = (key) => {
      const date = new Date(this.#address.get(key) ?? NaN);
      return isNaN(date) ? "" : new Date(date - date.getTimezoneOffset() * 60e3).toISOString().slice(0, 19);
    };
    this.since.input.value = local("since");
    this.until.input.value = local("until");
    const own = this.since.input.value !== "" || this.until.input.value !== "";
    if (this.age.value !== "own" || this.#age) this.age.value = own ? "own" : this.#age;
    this.range.hidden = this.age.value !== "own";
    const text = this.#address.get("text") ?? "";
    if (this.text.value.trim() !== text) this.text.value = text;
    this.starred.checked = this.#address.has("starred");
    this.clear.hidden = !this.isActive;
  }

  // Option values begin with "=", so that no stream or label is taken for the words "several" and "".
  #addOption(select, value, text) {
    const known = [...select.options].find((option) => option.value === `=${value}`);
    if (known === undefined) select.append(el("option", { value: `=${value}` }, text));
    else if (known.textContent !== text && text !== value) known.textContent = text;
  }

  async #offer() {
    let choices;
    try {
      choices = await call("/api/events/choices");
    } catch (error) {
      this.#failed(`The choices of the filters cannot be read: ${error.message}.`);
      return;
    }
    for (const [stream, name] of Object.entries(choices.streams)) this.#addOption(this.stream.select, stream, name);
    for (const label of choices.labels) this.#addOption(this.label.select, label, label);
    for (const [{ select, empty, root }, names] of [[this.region, choices.regions], [this.model, choices.models]]) {
      if (!names.some(Boolean)) continue; // all events have the only view without names
      for (const name of names) this.#addOption(select, name, name || empty);
      root.hidden = false;
    }
  }
}
