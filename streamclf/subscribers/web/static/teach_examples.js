// The examples of a model: watch, label again, delete, undo; examples without a label, and clips of events.

import { call, clock, duration, el, percent, setText } from "/static/dom.js";

const CLIPS = 24;
const SHOWN = 60; // examples that are shown until the button shows more

export class Examples {
  #page;
  #key = "";
  #shown = SHOWN;
  #unlabelledKey = "";
  #clips = el("ul", { class: "teach-films" });
  #clipsNote = el("p", { class: "quiet", role: "status" });
  #films = el("ul", { class: "teach-films" });
  #unlabelled = el("ul", { class: "teach-films" });
  #title = el("h2", {}, "Examples");
  #undo = el("button", { type: "button", class: "button", hidden: true, onclick: () => this.#page.send(`${this.#page.base}/undo`, undefined, (answer) => `Undone: ${answer.description}.`) });
  #more = el("button", { type: "button", class: "button", hidden: true, onclick: () => { this.#shown += SHOWN; this.show(); } }, "Show more");

  constructor(page) {
    this.#page = page;
    this.uncertainBox = el("details", { class: "teach-more", ontoggle: () => this.#loadUnlabelled() },
      el("summary", {}, el("span", {}, "Uncertain moments")), this.#unlabelled);
    this.clipsBox = el("details", { class: "teach-more", ontoggle: () => this.#loadClips() },
      el("summary", {}, "Clips of events"), this.#clipsNote, this.#clips);
    this.element = el("section", { class: "settings-section teach-examples" },
      this.uncertainBox, this.clipsBox,
      el("div", { class: "settings-top" }, this.#title, this.#undo), this.#films, this.#more);
  }

  show() {
    const { project, state } = this.#page;
    const summary = this.uncertainBox.querySelector("summary > span");
    setText(summary, `Uncertain moments: ${state.unlabelled}`);
    this.uncertainBox.hidden = state.unlabelled === 0 && state.uncertain === 0;
    if (this.uncertainBox.open) this.#loadUnlabelled();
    setText(this.#title, `Examples of ${project.project}: ${project.examples.length}`);
    this.#undo.hidden = project.undo === null;
    setText(this.#undo, `Undo: ${project.undo ?? ""}`);
    const key = JSON.stringify([project.project, project.examples, this.#page.labels, this.#shown]);
    if (key === this.#key) return;
    this.#key = key;
    keepFocus(this.#films, project.examples.slice(0, this.#shown).map((each) => this.#film(each)));
    this.#more.hidden = project.examples.length <= this.#shown;
  }

  // Show one example, as a wrong one of a training. Returns whether it exists.
  find(file) {
    this.#shown = Math.max(this.#shown, 1 + this.#page.project.examples.findIndex((each) => each.file === file));
    this.show();
    const item = [...this.#films.children].find((each) => each.dataset.file === file);
    item?.scrollIntoView({ block: "center" });
    item?.querySelector("video, select")?.focus();
    return item !== undefined;
  }

  #film(example) {
    const when = clock(new Date(example.began * 1000));
    const url = `/api/teach/film?file=${encodeURIComponent(example.file)}`;
    const text = example.seconds ? `${duration(example.seconds)} · ${when}` : "The film cannot be read";
    return el("li", { class: "teach-film", "data-file": example.file },
      example.plays && example.seconds ? video(url, `Example from ${when}`) : el("p", { class: "teach-no-film" }, "No preview"),
      example.top.length > 0 ? el("p", { class: "teach-guess" }, example.top.slice(0, 2).map(([label, p]) => `${label} ${percent(p)}`).join(", ")) : null,
      el("p", { class: "quiet teach-when" }, text),
      el("div", { class: "teach-film-buttons" },
        this.#labelSelect(example.label, `Label of the example from ${when}`, (label) => this.#label(example, label)),
        el("button", { type: "button", class: "button button-danger", "aria-label": `Delete the example from ${when}`,
          onclick: () => this.#page.send(`${this.#page.base}/delete`, { file: example.file }, "Deleted. Undo restores it.") }, "Delete")));
  }

  #labelSelect(present, name, choose) {
    const labels = this.#page.labels;
    const select = el("select", { "aria-label": name },
      ...(present === null ? [el("option", { value: "" }, "Label…")] : []),
      ...labels.map((label) => el("option", { value: label, selected: label === present }, label)));
    select.addEventListener("change", () => {
      if (select.value) choose(select.value);
    });
    return select;
  }

  async #label(example, label) {
    await this.#page.send(`${this.#page.base}/label`, { file: example.file, label }, `Labelled as ${label}.`);
    this.#unlabelledKey = "";
    this.#loadUnlabelled();
  }

  async #loadUnlabelled() {
    if (!this.uncertainBox.open) return;
    const found = await call("/api/teach/unlabelled").catch((error) => { this.#page.fail(`The uncertain moments cannot be read: ${error.message}.`); return []; });
    const key = JSON.stringify([found, this.#page.labels]);
    if (key === this.#unlabelledKey) return;
    this.#unlabelledKey = key;
    keepFocus(this.#unlabelled, found.slice(0, SHOWN).map((each) => this.#film(each)));
  }

  async #loadClips() {
    if (!this.clipsBox.open) return;
    const query = `limit=100&stream=${encodeURIComponent(this.#page.stream)}`;
    try {
      const { events } = await call(`/api/events?${query}`);
      const clips = events.flatMap((event) => event.clips.map((clip) => ({ event, clip }))).slice(0, CLIPS);
      setText(this.#clipsNote, clips.length ? "" : "There are no clips of this stream yet. A clip is saved of each action if the configuration has the section “clips”.");
      this.#clips.replaceChildren(...clips.map(({ event, clip }) => this.#clip(event, clip)));
    } catch (error) {
      setText(this.#clipsNote, `The clips cannot be read: ${error.message}.`);
    }
  }

  #clip(event, clip) {
    const when = clock(new Date(clip.began));
    const file = decodeURIComponent(new URL(clip.film, location.href).pathname.replace(/^\/api\/clips\//, ""));
    return el("li", { class: "teach-film" },
      video(clip.film, `Clip from ${when}`),
      el("p", { class: "teach-guess" }, `${event.label} ${percent(event.probability)}`),
      el("p", { class: "quiet teach-when" }, `${duration(clip.seconds)} · ${when}`),
      this.#labelSelect(null, `Label of the clip from ${when}`, (label) =>
        this.#page.send(`${this.#page.base}/clip`, { file, label, region: event.region ?? null }, `Added as an example of ${label}.`)));
  }
}

// A film loads its first picture when it comes into sight: browsers open few connections at a time.
const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    entry.target.preload = "metadata";
    inSight.unobserve(entry.target);
  }
});

function video(url, name) {
  const film = el("video", { src: `${url}#t=0.1`, preload: "none", controls: true, muted: true, playsinline: true, "aria-label": name });
  inSight.observe(film);
  return film;
}

// Replace the children of a list; the element with the focus keeps it where it is still there.
function keepFocus(list, children) {
  const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const playing = [...list.querySelectorAll("video")].find((each) => !each.paused)?.closest("li")?.dataset.file;
  const kept = playing === undefined ? null : [...list.children].find((each) => each.dataset.file === playing);
  list.replaceChildren(...children.map((child) => (kept && child.dataset.file === playing ? kept : child)));
  if (focused !== null) [...list.querySelectorAll("[aria-label]")].find((each) => each.getAttribute("aria-label") === focused)?.focus();
}
