// The page Events: a list of actions, newest first, and the selected one with its clip.
import { whenReady } from "/static/page.js";
import { call, day, duration, el, moment, percent, setText, timeOfDay } from "/static/dom.js";
import { Detail } from "/static/event_detail.js";
import { Filters } from "/static/event_filters.js";

const POLL_MS = 500;
const HIDDEN_POLL_MS = 5000;
const PAGE = 50;
const MOST_ROWS = 400; // with more, the list is cleared and continues with older events
const MOST_AT_ONCE = 200;
const RUNNING_TICK_MS = 500;
const CLIP_DUE_MS = 60_000;

export const keyOf = (event) => `${event.epoch}:${event.offset}`;

class EventsPage {
  #rows = new Map(); // by key: { event, key, began, item, link, parts }
  #order = []; // the same, newest first
  #isCut = false; // whether rows at the end were removed
  #cursor = null;
  #version = null;
  #hasClips = false;
  #selected = null;
  #busy = false;
  #isOfReading = false; // whether the shown problem is one of reading events
  #asked = 0; // number of the newest request: older answers are not shown

  constructor(root) {
    this.filters = new Filters(() => this.#reset(true), (text) => this.#fail(text));
    this.list = el("ol", { class: "events-list", "aria-label": "Events, newest first" });
    this.state = el("p", { class: "events-state", role: "status" });
    this.problem = el("p", { class: "events-problem", role: "alert", hidden: true });
    this.hint = el("p", { class: "events-hint", hidden: true });
    this.more = el("button", { type: "button", class: "button", hidden: true, onclick: () => this.#older() }, "Older events");
    this.pane = el("section", { class: "events-pane", "aria-label": "Selected event" });
    this.detail = new Detail({
      changed: (event) => this.#update([event]),
      removed: (event) => this.#remove(event),
    });
    this.empty = el("p", { class: "events-empty" }, "Select an event to see its clip. Keys: j and k select the next and the previous event, Enter plays its clip, s stars it, Delete deletes it.");
    this.pane.append(this.empty);
    const left = el("div", { class: "events-left" }, this.problem, this.hint, this.list, this.more, this.state);
    root.append(this.filters.form, el("div", { class: "events-panes" }, left, this.pane));
    this.wide = matchMedia("(min-width: 1000px)");
    this.wide.addEventListener("change", () => this.#placeDetail());
    document.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("popstate", () => this.#go());
    new IntersectionObserver((seen) => seen[0].isIntersecting && this.#scrolled(), { rootMargin: "400px" }).observe(this.state);
    setInterval(() => this.#tick(), RUNNING_TICK_MS);
    this.#go();
    this.#poll();
  }

  // Show the event and the filters in the address.
  async #go() {
    const match = /^\/events\/(-?\d+)$/.exec(location.pathname);
    this.filters.read();
    await this.#reset(false);
    if (!match) return this.#select(null);
    const epoch = new URLSearchParams(location.search).get("epoch");
    try {
      const event = await call(`/api/events/${match[1]}${epoch ? `?epoch=${encodeURIComponent(epoch)}` : ""}`);
      const row = this.#rows.get(keyOf(event));
      this.#select(row ? row.event : event);
      row?.item.scrollIntoView({ block: "nearest" });
    } catch (error) {
      this.#select(null);
      this.#fail(`The event cannot be shown: ${error.message}.`);
    }
  }

  async #reset(isFilterChange) {
    this.#fail("");
    for (const key of [...this.#rows.keys()]) this.#drop(key);
    this.list.replaceChildren();
    this.#cursor = null;
    this.#isCut = false;
    this.#version = null;
    if (isFilterChange) {
      history.replaceState(null, "", this.filters.path("/events"));
      this.#select(null);
    }
    await this.#load({ limit: PAGE });
  }

  async #load({ limit, cursor = null, version = null }) {
    const query = this.filters.query();
    query.set("limit", limit);
    if (cursor !== null) query.set("cursor", cursor);
    if (version !== null) query.set("version", version);
    const number = (this.#asked += 1);
    try {
      const answer = await call(`/api/events?${query}`);
      if (answer === null || number !== this.#asked) return;
      this.#show(answer, { isFirst: cursor === null, limit });
    } catch (error) {
      this.#version = null; // to get an answer with events, which hides the text
      this.#isOfReading = true;
      this.#fail(`The events cannot be read: ${error.message}.`);
    }
  }

  #show(answer, { isFirst, limit }) {
    if (this.#isOfReading) this.#fail("");
    this.#isOfReading = false;
    this.#version = answer.version;
    this.#hasClips = answer.has_clips;
    if (isFirst) {
      // Rows in the range of the answer that it does not have any more were deleted.
      const keys = new Set(answer.events.map(keyOf));
      const last = answer.next_cursor === null ? -Infinity : Date.parse(answer.events.at(-1).began);
      for (const [key, row] of this.#rows) {
        if (!keys.has(key) && row.began > last) this.#drop(key);
      }
    }
    if (!isFirst || this.#rows.size <= limit) this.#cursor = answer.next_cursor;
    this.#update(answer.events);
    if (isFirst && this.#rows.size > MOST_ROWS + PAGE) this.#trim();
    this.#sayCount(answer);
  }

  #sayCount(answer) {
    const count = this.#rows.size;
    this.more.hidden = !this.#isCut && (this.#cursor === null || count < MOST_ROWS);
    let text = this.#cursor === null ? `${count} ${count === 1 ? "event" : "events"}.` : "";
    if (count === 0) {
      text = this.filters.isActive ? "No events match these filters. Clear the filters to see all events."
        : "No events yet. An event appears here when an action starts. The thresholds in Settings decide when one starts.";
    }
    if (answer.loading) text += " Older events are being read from the journal.";
    if (answer.fault) text += ` The list of events is not complete: ${answer.fault}.`;
    this.#say(text);
    this.hint.hidden = answer.has_clips;
    if (!answer.has_clips) {
      setText(this.hint, "There are no stills and no clips. To get them, add the section “clips” to the configuration of the service. If you start the page by hand, also give it --clips FOLDER.");
    }
  }

  #fail(text) {
    setText(this.problem, text);
    this.problem.hidden = text === "";
  }

  #say(text) {
    setText(this.state, text.trim());
  }

  // Add and change rows; keep the list in order, with a heading for each day.
  #update(events) {
    for (const event of events) {
      const key = keyOf(event);
      let row = this.#rows.get(key);
      if (row === undefined) {
        row = { event, key, began: Date.parse(event.began), ...this.#makeRow(event) };
        this.#rows.set(key, row);
        const index = this.#order.findIndex((each) => each.began < row.began);
        this.list.insertBefore(row.item, this.#order[index]?.item ?? null);
        this.#order.splice(index < 0 ? this.#order.length : index, 0, row);
      }
      row.event = event;
      this.#fill(row);
      if (this.#selected !== null && keyOf(this.#selected) === key) {
        this.#selected = event;
        this.detail.show(event);
      }
    }
    this.#headings();
  }

  #headings() {
    let last = "";
    for (const heading of this.list.querySelectorAll(".events-day")) heading.remove();
    for (const row of this.#order) {
      const text = day(new Date(row.event.began));
      if (text !== last) this.list.insertBefore(el("li", { class: "events-day" }, el("h2", {}, text)), row.item);
      last = text;
    }
  }

  #makeRow(event) {
    const parts = {
      still: el("span", { class: "event-still" }),
      label: el("span", { class: "event-label" }),
      stream: el("span", { class: "event-stream" }),
      time: el("time", { class: "num" }),
      long: el("span", { class: "num" }),
      p: el("span", { class: "num" }),
      star: el("span", { class: "event-star", role: "img", "aria-label": "starred", title: "starred: the clip is kept for ever" }, "★"),
    };
    const link = el(
      "a",
      { class: "event-row", href: event.page, onclick: (click) => this.#click(click, keyOf(event)) },
      parts.still,
      el("span", { class: "event-text" }, parts.label, parts.stream),
      el("span", { class: "event-numbers" }, parts.time, parts.long, parts.p),
      parts.star,
    );
    const item = el("li", { "data-key": keyOf(event) }, link);
    return { item, link, parts };
  }

  #fill({ event, item, parts }) {
    const began = new Date(event.began);
    item.classList.toggle("is-running", event.state === "running");
    setText(parts.label, event.label);
    setText(parts.stream, [event.name, event.region, event.model_name].filter(Boolean).join(" · "));
    setText(parts.time, timeOfDay(began));
    parts.time.dateTime = event.began;
    parts.time.title = moment(began);
    setText(parts.p, percent(event.probability));
    parts.p.title = "highest probability";
    parts.star.hidden = !event.starred;
    this.#fillLong(event, parts);
    const clip = event.clips[0];
    const still = clip?.drawn ?? clip?.still;
    const image = parts.still.querySelector("img");
    if (still && image?.getAttribute("src") !== still) {
      parts.still.replaceChildren(el("img", { src: still, alt: "", loading: "lazy", decoding: "async" }));
    } else if (!still) {
      const text = event.clips.length ? "no still" : event.state === "running" ? "running" : this.#isClipDue(event) ? "clip follows" : "no clip";
      if (image || parts.still.textContent !== text) parts.still.replaceChildren(text);
    }
  }

  // A film is complete some seconds after the end of its action.
  #isClipDue(event) {
    return this.#hasClips && event.ended !== null && Date.now() - Date.parse(event.ended) < CLIP_DUE_MS;
  }

  #fillLong(event, parts) {
    if (event.state === "running") {
      setText(parts.long, `running, ${duration(Math.max(0, (Date.now() - Date.parse(event.began)) / 1000))}`);
    } else {
      setText(parts.long, event.state === "unknown" ? "end unknown" : duration(event.duration_s));
    }
  }

  #tick() {
    for (const row of this.#rows.values()) {
      if (row.event.state === "running") this.#fillLong(row.event, row.parts);
      else if (row.parts.still.textContent === "clip follows") this.#fill(row);
    }
    this.detail.tick();
  }

  #drop(key) {
    const row = this.#rows.get(key);
    if (row === undefined) return;
    if (row.item.contains(this.detail.root)) this.pane.append(this.detail.root);
    row.item.remove();
    this.#rows.delete(key);
    this.#order.splice(this.#order.indexOf(row), 1);
  }

  // A page that stays open for days must not grow.
  #trim() {
    for (const row of this.#order.slice(MOST_ROWS)) this.#drop(row.key);
    this.#isCut = true;
  }

  #remove(event) {
    const index = this.#order.findIndex((row) => row.key === keyOf(event));
    const next = index < 0 ? undefined : (this.#order[index + 1] ?? this.#order[index - 1]);
    this.#drop(keyOf(event));
    this.#headings();
    this.#choose(next?.key ?? null);
  }

  #click(click, key) {
    if (click.ctrlKey || click.metaKey || click.shiftKey || click.button !== 0) return;
    click.preventDefault();
    const isSelected = this.#selected !== null && keyOf(this.#selected) === key;
    if (!isSelected) this.#choose(key);
    this.detail.play();
  }

  // Select an event as the user's choice: the address changes, so that the link can be shared.
  #choose(key) {
    const row = key === null ? undefined : this.#rows.get(key);
    this.#select(row?.event ?? null);
    history.replaceState(null, "", this.filters.path(row ? row.event.page : "/events"));
    row?.link.focus({ preventScroll: true });
    row?.item.scrollIntoView({ block: "nearest" });
  }

  #select(event) {
    const before = this.#selected;
    this.#selected = event;
    for (const each of [before, event]) {
      const row = each === null ? undefined : this.#rows.get(keyOf(each));
      if (row) row.link.toggleAttribute("aria-current", each === event);
      if (row && each === event) row.link.setAttribute("aria-current", "true");
    }
    this.empty.hidden = event !== null;
    if (event !== null) this.#fail("");
    this.detail.show(event);
    this.#placeDetail();
  }

  // A wide window has the detail at the side, a narrow one below the row.
  #placeDetail() {
    const row = this.#selected === null ? undefined : this.#rows.get(keyOf(this.#selected));
    const parent = this.wide.matches || row === undefined ? this.pane : row.item;
    if (this.detail.root.parentElement !== parent) parent.append(this.detail.root);
  }

  #key(event) {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (target.closest?.("input, select, textarea, video")) return;
    const inControl = target.closest?.("button, a:not(.event-row)") !== null;
    const rows = this.#order;
    const index = this.#selected === null ? -1 : rows.findIndex((row) => row.key === keyOf(this.#selected));
    const move = (step) => {
      const next = rows[Math.min(rows.length - 1, Math.max(0, index + step))];
      if (next) this.#choose(next.key);
      if (index + step >= rows.length - 5) this.#scrolled();
    };
    if (event.key === "j" || event.key === "ArrowDown") move(1);
    else if (event.key === "k" || event.key === "ArrowUp") move(-1);
    else if (event.key === "Enter" && !inControl && this.#selected !== null) this.detail.toggle();
    else if (event.key === "s" && this.#selected !== null) this.detail.star();
    else if (event.key === "Delete" && this.#selected !== null) this.detail.askToDelete();
    else return;
    event.preventDefault();
  }

  async #scrolled() {
    if (this.#busy || this.#cursor === null || this.#rows.size === 0 || this.#rows.size >= MOST_ROWS) return;
    this.#busy = true;
    await this.#load({ limit: PAGE, cursor: this.#cursor });
    this.#busy = false;
  }

  // Clear the list, and fill it with events that are older than those in it.
  #older() {
    this.filters.setUntil(new Date(this.#order.at(-1).began));
    this.list.parentElement.scrollTop = 0;
    this.#reset(true);
  }

  #poll() {
    const wait = document.hidden ? HIDDEN_POLL_MS : POLL_MS;
    setTimeout(async () => {
      if (!this.#busy) {
        const limit = Math.min(MOST_AT_ONCE, Math.max(PAGE, this.#rows.size));
        await this.#load({ limit, version: this.#version });
      }
      this.#poll();
    }, wait);
  }
}

new EventsPage(await whenReady("events"));
