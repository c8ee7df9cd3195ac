// One event: its clip, which plays in place, and what can be done with it.
import { bytes, call, duration, el, moment, percent, setText } from "/static/dom.js";

const REASONS = { // as in docs/actions.md
  below: "the probability fell below “off”",
  scene: "the action was held, and the scene is back",
  hold: "the action was held for its longest time",
  schedule: "its hours ended",
  gap: "the video was interrupted",
  stopped: "the stream or the label was removed, or the service stopped",
  lost: "the classifier failed",
};
const SHARE_HOURS = 24;
const DELETE_TITLE = "Delete the clip and hide the event (key Delete)";

export class Detail {
  #event = null;
  #part = 0;
  #filmUrl = "";
  #changed;
  #removed;

  constructor({ changed, removed }) {
    this.#changed = changed;
    this.#removed = removed;
    this.video = el("video", { controls: true, playsinline: true, preload: "metadata", "aria-label": "Clip of the event" });
    this.video.addEventListener("error", () => this.#sayWhyNotPlayed());
    this.video.addEventListener("ended", () => this.#next());
    this.empty = el("p", { class: "detail-empty" });
    this.title = el("h2", { class: "detail-title" });
    this.facts = el("dl", { class: "detail-facts" });
    this.parts = el("div", { class: "detail-parts", role: "group", "aria-label": "Parts of the clip" });
    this.message = el("p", { class: "detail-message", role: "status" });
    const button = (text, title, onclick) => el("button", { type: "button", class: "button", title, onclick }, text);
    this.starButton = button("☆ Star", "Keep the clip for ever (key s)", () => this.star());
    this.shareButton = button("Share", "Links to this event and its clip", () => this.#share());
    this.downloadLink = el("a", { class: "button", download: true, title: "Store the clip on this device" }, "Download");
    this.deleteButton = button("Delete", DELETE_TITLE, () => this.askToDelete());
    this.actions = el("div", { class: "detail-actions" }, this.starButton, this.shareButton, this.downloadLink, this.deleteButton);
    this.root = el("div", { class: "detail", hidden: true }, this.title, this.video, this.empty, this.parts, this.actions, this.message, this.facts);
    this.deleteDialog = this.#makeDeleteDialog();
    this.shareDialog = this.#makeShareDialog();
    document.body.append(this.deleteDialog, this.shareDialog);
  }

  show(event) {
    const isOther = event === null || this.#event === null || event.epoch !== this.#event.epoch || event.offset !== this.#event.offset;
    this.#event = event;
    this.root.hidden = event === null;
    if (isOther) {
      this.#part = 0;
      this.#say("");
    }
    if (event === null) {
      this.#setFilm("", "");
      return;
    }
    setText(this.title, event.label);
    const clip = event.clips[this.#part] ?? event.clips[0];
    this.#setFilm(clip?.film ?? "", clip ? (clip.drawn ?? clip.still ?? "") : "");
    this.video.hidden = clip === undefined;
    setText(this.empty, clip ? "" : event.state === "running" ? "The clip is written when the action has ended." : "There is no clip of this event.");
    this.empty.hidden = clip !== undefined;
    for (const each of [this.starButton, this.downloadLink]) each.hidden = clip === undefined;
    if (clip) this.downloadLink.href = `${clip.film}?download=true`;
    setText(this.starButton, event.starred ? "★ Starred" : "☆ Star");
    this.starButton.setAttribute("aria-pressed", String(event.starred));
    this.deleteButton.disabled = event.state === "running" || event.starred;
    this.deleteButton.title = event.starred ? "The event is starred. Remove the star first." : DELETE_TITLE;
    this.#showParts();
    this.#showFacts();
  }

  tick() {
    if (this.#event?.state === "running") this.#showFacts();
  }

  play() {
    if (this.#event?.clips.length) this.video.play().catch(() => {}); // the event "error" says what failed
  }

  toggle() {
    if (this.video.paused) this.play();
    else this.video.pause();
  }

  async star() {
    const event = this.#event;
    if (!event?.clips.length) return;
    await this.#try(event.starred ? "unstarred" : "starred", async () => this.#changed(await call(this.#url("/star"), { method: "POST", body: JSON.stringify({ starred: !event.starred }) })));
  }

  askToDelete() {
    const event = this.#event;
    if (event === null) return;
    if (event.starred) return this.#say("The event is starred. Remove the star first.");
    if (event.state === "running") return this.#say("The action is still running. Delete it after its end.");
    const clip = event.clips.length ? "deletes the clip of this event and " : "";
    setText(this.deleteText, `${event.label} · ${[event.name, event.region, event.model_name].filter(Boolean).join(" · ")} · ${moment(new Date(event.began))}. ` +
      `This ${clip}hides the event. You cannot undo it.`);
    this.deleteDialog.showModal();
  }

  async #delete() {
    this.deleteDialog.close();
    const event = this.#event;
    if (event === null) return;
    this.#setFilm("", "");
    await this.#try("deleted", async () => {
      await call(this.#url(""), { method: "DELETE" });
      this.#removed(event);
    });
  }

  async #share() {
    const event = this.#event;
    if (event === null) return;
    this.pageLink.value = new URL(event.page, location.origin).href;
    const clip = event.clips[this.#part];
    this.filmRow.hidden = clip === undefined;
    this.filmLink.value = "";
    setText(this.shareProblem, "");
    this.shareDialog.showModal();
    if (!clip) return;
    try {
      const shared = await call(this.#url("/share"), { method: "POST", body: JSON.stringify({ part: clip.part, hours: SHARE_HOURS }) });
      this.filmLink.value = new URL(shared.film, location.origin).href;
    } catch (error) {
      this.filmRow.hidden = true;
      setText(this.shareProblem, `There is no link to the clip: ${error.message}.`);
    }
  }

  #url(action) {
    const epoch = this.#event.epoch ? `?epoch=${this.#event.epoch}` : "";
    return `/api/events/${this.#event.offset}${action}${epoch}`;
  }

  // Do `work`. If it fails, say that the event was not `done`.
  async #try(done, work) {
    try {
      this.#say("");
      await work();
    } catch (error) {
      this.#say(`The event was not ${done}: ${error.message}.`);
    }
  }

  async #sayWhyNotPlayed() {
    const film = this.#filmUrl;
    if (!film) return;
    let text = "This browser cannot play the clip. Download it, and play it with another program.";
    try {
      await call(film, { method: "HEAD" });
    } catch (error) {
      text = error.status === 404 ? "The clip was deleted or has expired." : `The clip cannot be read: ${error.message}.`;
    }
    if (film === this.#filmUrl) this.#say(text);
  }

  #say(text) {
    setText(this.message, text);
  }

  #setFilm(film, still) {
    if (still && this.video.getAttribute("poster") !== still) this.video.poster = still;
    if (this.#filmUrl === film) return;
    this.#filmUrl = film;
    if (film) this.video.src = film;
    else this.video.removeAttribute("src");
    if (!still) this.video.removeAttribute("poster");
    this.video.load();
  }

  #next() {
    if (this.#event === null || this.#part + 1 >= this.#event.clips.length) return;
    this.#choosePart(this.#part + 1);
  }

  #choosePart(index) {
    this.#part = index;
    this.show(this.#event);
    this.play();
  }

  #showParts() {
    const clips = this.#event.clips;
    this.parts.hidden = clips.length < 2;
    this.parts.replaceChildren(
      ...(clips.length < 2 ? [] : clips).map((clip, index) =>
        el("button", { type: "button", class: "button", "aria-pressed": String(index === this.#part), onclick: () => this.#choosePart(index) }, `Part ${clip.part}`),
      ),
    );
  }

  #showFacts() {
    const event = this.#event;
    const running = Math.max(0, (Date.now() - Date.parse(event.began)) / 1000);
    const facts = [
      ["Stream", event.name === event.stream ? event.stream : `${event.name} (${event.stream})`],
      ["Began", moment(new Date(event.began))],
      ["Duration", event.state === "running" ? `running, ${duration(running)}` : event.state === "unknown" ? "end unknown" : duration(event.duration_s)],
      ["Highest probability", percent(event.probability)],
    ];
    if (event.region) facts.push(["Region", event.region]);
    if (event.model_name) facts.push(["Model", event.model_name]);
    if (event.reason) facts.push(["Ended because", REASONS[event.reason] ?? event.reason]);
    if (event.clips.length) {
      const seconds = event.clips.reduce((sum, clip) => sum + clip.seconds, 0);
      facts.push(["Clip", `${duration(seconds)}, ${bytes(event.clips.reduce((sum, clip) => sum + clip.bytes, 0))}`]);
    }
    facts.push(["Event number", String(event.offset)]);
    if (this.facts.childElementCount !== 2 * facts.length) {
      this.facts.replaceChildren(...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
    } else {
      facts.forEach(([name, value], index) => {
        setText(this.facts.children[2 * index], name);
        setText(this.facts.children[2 * index + 1], value);
      });
    }
  }

  #makeDeleteDialog() {
    this.deleteText = el("p", {});
    const cancel = el("button", { type: "button", class: "button", onclick: () => this.deleteDialog.close() }, "Cancel");
    const confirm = el("button", { type: "button", class: "button button-danger", onclick: () => this.#delete() }, "Delete");
    const title = el("h2", { id: "delete-title" }, "Delete this event");
    return el("dialog", { class: "dialog", "aria-labelledby": "delete-title" }, title, this.deleteText, el("div", { class: "detail-actions" }, confirm, cancel));
  }

  #makeShareDialog() {
    const row = (id, text, note) => {
      const input = el("input", { id, type: "text", readonly: true, onfocus: () => input.select() });
      const copy = el("button", { type: "button", class: "button", onclick: () => this.#copy(input, copy) }, "Copy");
      const root = el("div", { class: "share-row" }, el("label", { for: id }, text), el("div", { class: "share-field" }, input, copy), el("p", { class: "share-note" }, note));
      return { input, root };
    };
    const page = row("share-page", "This event", "If the page has a login, people need it to open this link.");
    const film = row("share-film", "The clip alone", `Everybody with this link can see the clip without a login, for ${SHARE_HOURS} hours.`);
    this.shareProblem = el("p", { class: "detail-message", role: "status" });
    this.pageLink = page.input;
    this.filmLink = film.input;
    this.filmRow = film.root;
    const close = el("button", { type: "button", class: "button", onclick: () => this.shareDialog.close() }, "Close");
    const title = el("h2", { id: "share-title" }, "Share this event");
    return el("dialog", { class: "dialog", "aria-labelledby": "share-title" }, title, page.root, film.root, this.shareProblem, el("div", { class: "detail-actions" }, close));
  }

  async #copy(input, button) {
    input.select();
    try {
      await navigator.clipboard.writeText(input.value); // only on https and on this machine
      setText(button, "Copied");
    } catch {
      setText(button, "Press Ctrl+C");
    }
    setTimeout(() => setText(button, "Copy"), 2000);
  }
}
