// The form that adds a stream: its fields, the test of its source, and the picture that the test shows.

import { call, el, setText } from "/static/dom.js";

const NAME = "[A-Za-z0-9_\\-]{1,64}"; // browsers read it with the flag v, in which - has to be escaped

export class AddStreamForm {
  #owner;
  #kind = "url";
  #result = el("div", { class: "settings-test", role: "status" });
  #variables = el("p", { class: "quiet" });
  #stream = input("Name in the configuration", { pattern: NAME, required: true, maxlength: 64, placeholder: "door",
    title: "1 to 64 characters of A-Z a-z 0-9 _ -" });
  #name = input("Display name (optional)", { maxlength: 64, placeholder: "Front door" });
  #url = input("Address or file", { maxlength: 2048, placeholder: "rtsp://10.0.0.5/stream1", spellcheck: "false" });
  #user = input("User name (optional)", { maxlength: 256, autocomplete: "off" });
  #password = input("Password (optional)", { maxlength: 256, type: "password", autocomplete: "new-password" });
  #camera = input("Camera: its number, device path, or a part of its name", { maxlength: 256, placeholder: "0" });
  #test = el("button", { type: "button", class: "button", onclick: () => this.#runTest() }, "Test");
  #add = el("button", { type: "submit", class: "button button-main" }, "Add");

  constructor(owner) {
    this.#owner = owner;
    const kinds = [["url", "Network camera, other URL, or file"], ["camera", "Webcam on the machine of the service"]].map(
      ([kind, text]) => el("label", { class: "settings-choice" },
        el("input", { type: "radio", name: "kind", value: kind, checked: kind === "url",
          onchange: () => this.#choose(kind) }), text));
    this.form = el("form", { class: "settings-form", onsubmit: (event) => this.#submit(event) },
      el("fieldset", { class: "settings-choices" }, el("legend", {}, "Source"), ...kinds),
      this.#stream.field, this.#name.field, this.#url.field, this.#user.field, this.#password.field, this.#camera.field,
      this.#variables,
      el("div", { class: "settings-buttons" }, this.#test, this.#add),
      this.#result);
    this.element = el("details", { class: "settings-add" }, el("summary", {}, "+ Add a stream"), this.form);
    this.#choose("url");
  }

  show(settings) {
    for (const button of [this.#add, this.#test]) button.disabled = !this.#owner.isEditable;
    const known = settings.variables.map((name) => `\${${name}}`).join(", ");
    setText(this.#variables,
      "The page keeps the user name and the password in a file beside the configuration, which only its owner can read, " +
      `and does not show them again. An address may use variables instead${known ? `, like ${known}` : ", like ${NAME}"}.`);
  }

  #choose(kind) {
    this.#kind = kind;
    for (const each of [this.#url, this.#user, this.#password]) each.field.hidden = kind !== "url";
    this.#variables.hidden = kind !== "url";
    this.#camera.field.hidden = kind !== "camera";
    this.#url.box.required = kind === "url";
    this.#camera.box.required = kind === "camera";
  }

  get #edit() {
    const camera = this.#camera.box.value.trim();
    const source = this.#kind === "camera"
      ? { camera: /^\d+$/.test(camera) ? Number(camera) : camera }
      : { url: this.#url.box.value.trim(), user: this.#user.box.value || null, password: this.#password.box.value || null };
    return { change: "add_stream", stream: this.#stream.box.value.trim(), name: this.#name.box.value.trim() || null, ...source };
  }

  async #submit(event) {
    event.preventDefault();
    if (await this.#owner.edit(this.#edit)) {
      this.form.reset();
      this.#choose("url");
      this.#result.replaceChildren();
      this.element.open = false;
    }
  }

  async #runTest() {
    if (!this.form.reportValidity()) return;
    this.#test.disabled = true;
    this.#result.replaceChildren(el("p", {}, "Opening the source…"));
    try {
      const found = await call("/api/settings/test", { method: "POST", body: JSON.stringify(this.#edit) });
      const rate = found.fps === null ? "an unknown rate" : `${Number(found.fps.toFixed(1))} frames/s`;
      this.#result.replaceChildren(
        el("p", {}, `The source works: ${found.codec}, ${found.width}×${found.height}, ${rate}.`),
        ...(found.note ? [el("p", { class: "quiet" }, found.note)] : []),
        el("img", { src: `data:image/jpeg;base64,${found.jpeg}`, alt: "First picture of the source", class: "settings-picture" }));
    } catch (error) {
      this.#result.replaceChildren(el("p", { class: "settings-problem" }, `The source does not work: ${error.message}`));
    } finally {
      this.#test.disabled = !this.#owner.isEditable;
    }
  }
}

function input(label, attributes) {
  const box = el("input", { type: "text", ...attributes });
  return { box, field: el("label", { class: "settings-field" }, el("span", {}, label), box) };
}
