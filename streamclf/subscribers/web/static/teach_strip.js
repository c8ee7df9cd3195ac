// The strip of the pictures that can still be saved, on which a stretch can be marked.

import { duration, el, setText, timeOfDay } from "/static/dom.js";

const STEP_S = 1; // a picture each second
const HEIGHT = 54;
const MAX_FRAMES = 700;

export class Strip {
  mark = null; // { begin, end, shownAt } in seconds since 1970; the strip stands still while there is one
  #page;
  #frames = []; // { at, image }, oldest first
  #lastAt = 0;
  #canvas = el("canvas", { class: "teach-strip", height: HEIGHT, width: 600, role: "img",
    "aria-label": "Strip of earlier pictures. Drag to mark a stretch, or use the fields below." });
  #text = el("p", { class: "quiet", role: "status" });

  constructor(page) {
    this.#page = page;
    this.#canvas.addEventListener("pointerdown", (event) => this.#begin(event));
  }

  get elements() { return [this.#canvas, this.#text]; }

  clear() {
    for (const frame of this.#frames) frame.image.close();
    this.#frames = [];
    this.mark = null;
    this.draw();
  }

  // Add a small copy of a live picture if one is due.
  async add(image) {
    const now = this.#page.now;
    if (now - this.#lastAt < STEP_S && now >= this.#lastAt) return;
    this.#lastAt = now;
    const width = Math.max(1, Math.round((HEIGHT * image.width) / image.height));
    const thumb = await createImageBitmap(image, { resizeHeight: HEIGHT, resizeWidth: width });
    this.#frames.push({ at: now, image: thumb });
    while (this.#frames[0].at < now - 2 * this.#page.state.last_s || this.#frames.length > MAX_FRAMES) this.#frames.shift().image.close();
    this.draw();
  }

  draw() {
    if (this.#page.state === null || !this.#page.state.available) return;
    const width = Math.max(200, Math.round(this.#canvas.clientWidth || 600));
    if (this.#canvas.width !== width) this.#canvas.width = width;
    const drawing = this.#canvas.getContext("2d", { alpha: false });
    const end = this.mark?.shownAt ?? this.#page.now;
    const place = (at) => width * (1 - (end - at) / this.#page.state.last_s);
    drawing.fillStyle = "#090b0d";
    drawing.fillRect(0, 0, width, HEIGHT);
    let free = -1;
    for (const frame of this.#frames) {
      const left = place(frame.at);
      if (left < 0 || left < free || frame.at > end) continue;
      drawing.drawImage(frame.image, left, 0);
      free = left + frame.image.width + 1;
    }
    const { mark } = this;
    if (mark) {
      drawing.fillStyle = "rgb(127 209 174 / 0.45)";
      drawing.fillRect(place(mark.begin), 0, Math.max(2, place(mark.end) - place(mark.begin)), HEIGHT);
    }
    setText(this.#text, mark
      ? `Marked ${duration(mark.end - mark.begin)} from ${timeOfDay(new Date(mark.begin * 1000))}. Choose a label and save it.` : "");
  }

  #begin(event) {
    event.preventDefault();
    const shownAt = this.mark?.shownAt ?? this.#page.now;
    const at = (pointer) => {
      const box = this.#canvas.getBoundingClientRect();
      const share = Math.min(1, Math.max(0, (pointer.clientX - box.left) / box.width));
      return shownAt - this.#page.state.last_s * (1 - share);
    };
    const first = at(event);
    this.#canvas.setPointerCapture(event.pointerId);
    const move = (pointer) => {
      const other = at(pointer);
      this.mark = { begin: Math.min(first, other), end: Math.max(first, other), shownAt };
      this.draw();
    };
    move(event);
    this.#canvas.addEventListener("pointermove", move);
    this.#canvas.addEventListener("lostpointercapture", () => {
      this.#canvas.removeEventListener("pointermove", move);
      if (this.mark && this.mark.end - this.mark.begin < this.#page.state.min_s) this.mark = null;
      this.draw();
    }, { once: true });
  }
}
