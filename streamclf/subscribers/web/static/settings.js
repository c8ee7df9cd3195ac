// The page Settings: the streams of the configuration, their thresholds, and edits of its file.

import { whenReady } from "/static/page.js";
import { call, clock, el, setText, waitForService } from "/static/dom.js";
import { AreaEditor } from "/static/area_editor.js";
import { AddStreamForm } from "/static/settings_add.js";
import { Thresholds } from "/static/settings_thresholds.js";

const REFRESH_MS = 5_000;

class SettingsPage {
  settings = null;
  #root;
  #busy = false;
  #isOfFile = false;
  #message = el("p", { class: "settings-message", role: "status" });
  #problem = el("p", { class: "settings-problem", role: "alert", hidden: true });
  #news = el("div", { class: "settings-news" }, this.#message, this.#problem); // stays in sight
  #file = el("p", { class: "settings-file" });
  #undo = el("button", { type: "button", class: "button", hidden: true, onclick: () => this.undo() });
  #streams = el("ul", { class: "settings-streams" });

  constructor(root) {
    this.#root = root;
    this.add = new AddStreamForm(this);
    this.thresholds = new Thresholds(this);
  }

  async open() {
    await this.refresh();
    this.#openAreas();
    addEventListener("hashchange", () => this.#openAreas());
    setInterval(() => {
      if (document.visibilityState === "visible" && !this.#busy) this.refresh();
    }, REFRESH_MS);
  }

  get isEditable() {
    return this.settings.available && this.settings.read_only === null;
  }

  async refresh() {
    try {
      this.#show(await call("/api/settings"));
    } catch (error) {
      this.fail(`The settings cannot be read: ${error.message}.`, true);
    }
  }

  // Make an edit, and show how the service receives it. Returns whether the file was written.
  async edit(edit) {
    return this.#change("/api/settings/edits", { version: this.settings.version, edit });
  }

  async undo() {
    return this.#change("/api/settings/undo", { version: this.settings.version });
  }

  // Show a problem. `isOfFile`: it is one of the file as it is now, and goes when the file can be read and is right.
  fail(text, isOfFile = false) {
    this.#isOfFile = isOfFile;
    if (!this.#problem.isConnected) this.#root.prepend(this.#news);
    setText(this.#problem, text);
    this.#problem.hidden = text === "";
  }

  async #change(path, body) {
    if (this.#busy) return false;
    this.#busy = true;
    this.#root.toggleAttribute("data-busy", true);
    this.fail("");
    this.say("Checking…");
    try {
      const result = await call(path, { method: "POST", body: JSON.stringify(body) });
      this.#show(result.settings);
      this.say(`${result.description}: written. Waiting for the service…`);
      this.#followResult(result.description, result.settings.saved);
      return true;
    } catch (error) {
      this.say("");
      if (error.status === 409) this.#showConflict(error.detail);
      else if (error.status < 500) this.fail(`Refused, nothing was written: ${error.message}`);
      else this.fail(`The change may not have been written: ${error.message}. Look at the values below before you try again.`);
      return false;
    } finally {
      this.#busy = false;
      this.#root.toggleAttribute("data-busy", false);
    }
  }

  async #followResult(description, saved) {
    const result = await waitForService(saved, () => this.settings.saved === saved);
    if (result.outcome === "unread") {
      if (this.settings.saved === saved) this.say(`${description}: written. ${result.reason}`);
      return;
    }
    this.say(result.outcome === "applied" ? `${description}: the service has applied it at ${clock(new Date())}.` : "");
    if (result.outcome === "refused") {
      this.fail(`${description}: written, but the service refuses it and continues as before: ${result.reason}`, true);
    }
    await this.refresh();
  }

  say(text) {
    setText(this.#message, text);
  }

  #show(settings) {
    const first = this.settings === null || this.settings.available !== settings.available;
    this.settings = settings;
    if (!settings.available) {
      this.#root.replaceChildren(
        el("p", { class: "settings-hint" }, settings.reason),
        ...(settings.file ? [el("p", { class: "settings-file" }, settings.file)] : []),
      );
      return;
    }
    if (first) this.#layOut();
    this.#file.replaceChildren(...(settings.read_only === null
      ? [el("code", {}, settings.file), " Every change is written to this file; its comments stay."] : [settings.read_only]));
    this.#file.toggleAttribute("data-warn", settings.read_only !== null);
    if (settings.error) this.fail(`The file has an error: ${settings.error}`, true);
    else if (settings.service.outcome === "refused") this.fail(`The service refuses the file: ${settings.service.reason}`, true);
    else if (this.#isOfFile) this.fail("");
    this.#undo.hidden = settings.undo === null;
    setText(this.#undo, `Undo: ${settings.undo ?? ""}`);
    this.#undo.disabled = !this.isEditable;
    this.#showStreams();
    this.add.show(settings);
    this.thresholds.show(settings);
  }

  #layOut() {
    this.#root.replaceChildren(
      el("div", { class: "settings-top" }, this.#file, this.#undo),
      this.#news,
      el("section", { "aria-labelledby": "streams-title", class: "settings-section" },
        el("h2", { id: "streams-title" }, "Streams"), this.#streams, this.add.element),
      this.thresholds.element,
    );
  }

  #showStreams() {
    const rows = this.settings.streams.map((stream) => this.#row(stream));
    const before = JSON.stringify([this.isEditable, ...this.settings.streams]);
    if (this.#streams.dataset.shown === before) return; // keeps the focus on a button
    this.#streams.dataset.shown = before;
    const focused = document.activeElement?.dataset?.key;
    this.#streams.replaceChildren(...rows);
    if (focused) this.#streams.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(stream) {
    const state = !stream.enabled ? "paused" : stream.finished ? "finished" : (stream.state ?? "connecting");
    const title = stream.name ?? stream.stream;
    const pause = stream.enabled ? "Pause" : "Continue";
    return el("li", { class: "settings-stream", "data-stream": stream.stream },
      el("div", { class: "settings-stream-text" },
        el("strong", {}, title),
        stream.name ? el("span", { class: "quiet" }, stream.stream) : null,
        el("span", { class: "settings-state", "data-state": state }, state),
        el("span", { class: "quiet settings-source" }, stream.source),
        stream.enabled && !stream.finished && stream.state !== "live" && stream.reason ? el("span", { class: "quiet" }, stream.reason) : null),
      el("div", { class: "settings-buttons" },
        el("button", {
          type: "button", class: "button", disabled: !this.isEditable, "data-key": `pause ${stream.stream}`,
          "aria-label": `${pause} ${title}`,
          onclick: () => this.edit({ change: "pause_stream", stream: stream.stream, paused: stream.enabled }),
        }, pause),
        stream.area ? el("button", {
          type: "button", class: "button", disabled: !this.isEditable, "data-key": `areas ${stream.stream}`,
          "aria-label": `Regions and masks of ${title}`, onclick: () => this.#editAreas(stream, title),
        }, "Regions and masks") : null,
        el("button", {
          type: "button", class: "button button-danger", disabled: !this.isEditable || this.settings.streams.length < 2,
          "data-key": `remove ${stream.stream}`, "aria-label": `Remove ${title}`,
          title: this.settings.streams.length < 2 ? "The last stream cannot be removed. Pause it instead." : null,
          onclick: () => this.#confirmRemoval(stream.stream, title),
        }, "Remove")));
  }

  // Open the editor of the stream that the address names: the page Live links to #areas=STREAM.
  #openAreas() {
    const name = /^#areas=([A-Za-z0-9_-]{1,64})$/.exec(location.hash)?.[1];
    const stream = this.settings?.available ? this.settings.streams.find((each) => each.stream === name) : null;
    if (!stream?.area || !this.isEditable || document.querySelector("dialog[open]")) return;
    history.replaceState(null, "", location.pathname);
    this.#editAreas(stream, stream.name ?? stream.stream);
  }

  #editAreas(stream, title) {
    const editor = new AreaEditor(stream, title, (edit) => this.edit(edit));
    const save = el("button", { type: "button", class: "button button-main", onclick: async () => {
      save.disabled = true;
      if (await editor.save()) dialog.close();
      else editor.fail(this.#problem.textContent);
      save.disabled = false;
    } }, "Save");
    const dialog = openDialog(`Regions and masks of ${title}`, editor.element, [save]);
    dialog.classList.add("area-dialog");
    dialog.addEventListener("close", () => editor.close());
  }

  #confirmRemoval(stream, title) {
    const dialog = openDialog(`Remove ${title}?`,
      el("p", {}, "This removes the stream and its settings from the configuration. Its events and clips stay. “Undo” restores it."),
      [el("button", { type: "button", class: "button button-danger", onclick: () => {
        dialog.close();
        this.edit({ change: "remove_stream", stream });
      } }, "Remove")]);
  }

  #showConflict(detail) {
    const theirs = el("pre", { class: "settings-diff", tabindex: "0", "aria-label": "The change by hand" }, detail.theirs);
    const ours = el("pre", { class: "settings-diff", tabindex: "0", "aria-label": "Your change" }, detail.ours);
    openDialog("The file was changed in the meantime",
      el("div", {},
        el("p", {}, detail.message),
        el("h3", {}, "In the file"), theirs,
        ...(detail.ours ? [el("h3", {}, "Your change"), ours] : []),
        el("p", {}, "Load the file as it is now, and make your change again if you still want it.")),
      [el("button", { type: "button", class: "button", onclick: (event) => {
        event.target.closest("dialog").close();
        this.refresh();
      } }, "Load the file")]);
  }
}

// Open a modal dialog. Escape and its button Cancel close it.
function openDialog(title, content, buttons) {
  const id = "settings-dialog-title";
  const dialog = el("dialog", { class: "settings-dialog", "aria-labelledby": id, onclose: () => dialog.remove() },
    el("h2", { id }, title), content,
    el("div", { class: "settings-buttons" },
      ...buttons, el("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Cancel")));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

const page = new SettingsPage(await whenReady("settings"));
await page.open();
