// The editor of a stream's regions and masks: rectangles that are drawn on its live picture, or given in numbers.

import { connection } from "/static/page.js";
import { el, setText } from "/static/dom.js";

const NAME = "[A-Za-z0-9_\\-]{1,64}"; // browsers read it with the flag v, in which - has to be escaped
const MIN_SIDE = 0.02; // a smaller rectangle is a click
const HANDLE_PX = 14;
const SIDES = ["left", "top", "right", "bottom"];
const MAX_REGIONS = 16;
const MAX_MASKS = 20;
const SVG = "http://www.w3.org/2000/svg";

// Rotation and flip as a matrix [a, b, c, d] of the picture's centred coordinates: x' = a x + b y, y' = c x + d y.
function matrixOf({ rotate, flip }) {
  const [cos, sin] = { 0: [1, 0], 90: [0, 1], 180: [-1, 0], 270: [0, -1] }[rotate];
  const [x, y] = [flip === "horizontal" ? -1 : 1, flip === "vertical" ? -1 : 1];
  return [x * cos, -x * sin, y * sin, y * cos];
}

// The matrix that leads from one orientation to another: a rotation's inverse is its transpose.
function between(from, to) {
  const [a, b, c, d] = matrixOf(from);
  const [e, f, g, h] = matrixOf(to);
  return [e * a + f * b, e * c + f * d, g * a + h * b, g * c + h * d];
}

function turned([x, y], [a, b, c, d]) {
  const [u, v] = [x - 0.5, y - 0.5];
  return [a * u + b * v + 0.5, c * u + d * v + 0.5].map((share) => Math.min(1, Math.max(0, share)));
}

function rectangleOf(points) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

function cornersOf([left, top, right, bottom]) {
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
}

function isRectangle(points) {
  const box = JSON.stringify(cornersOf(rectangleOf(points)).sort());
  return points.length === 4 && JSON.stringify([...points].sort()) === box;
}

const short = (share) => Math.round(share * 1e4) / 1e4;

export class AreaEditor {
  #stream;
  #save;
  #shapes = []; // { kind: "region" | "mask", name, points } in the order of the list
  #selected = null;
  #saved; // the orientation of the pictures that arrive
  #shown; // the orientation that is shown
  #drag = null;
  #canvas = el("canvas", { class: "area-picture", role: "img" });
  #svg = document.createElementNS(SVG, "svg");
  #names = el("div", { class: "area-names", "aria-hidden": "true" });
  #list = el("ul", { class: "area-list" });
  #problem = el("p", { class: "settings-problem", role: "alert", hidden: true });
  #hint = el("p", { class: "quiet" });
  #tool = "region";
  #busy = false;

  // `stream` is an entry of the settings; `save` gets the edit, and returns whether it was written.
  constructor(stream, title, save) {
    this.#stream = stream.stream;
    this.#save = save;
    const area = stream.area;
    this.#saved = { rotate: area.rotate, flip: area.flip };
    this.#shown = { ...this.#saved };
    for (const { name, region } of area.regions) this.#shapes.push({ kind: "region", name, points: cornersOf(region) });
    for (const points of area.mask) this.#shapes.push({ kind: "mask", name: "", points });
    this.#canvas.setAttribute("aria-label", `Picture of ${title}`);
    [this.#canvas.width, this.#canvas.height] = [640, 360];
    this.#svg.setAttribute("class", "area-shapes");
    this.#svg.setAttribute("viewBox", "0 0 1 1");
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("aria-hidden", "true");
    this.#svg.addEventListener("pointerdown", (event) => this.#press(event));
    this.#svg.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) this.#svg.addEventListener(end, (event) => this.#release(event));
    const tools = [["region", "Draw regions"], ["mask", "Draw masks"]].map(([tool, text]) =>
      el("label", { class: "settings-choice" },
        el("input", { type: "radio", name: "area-tool", value: tool, checked: tool === this.#tool,
          onchange: () => { this.#tool = tool; } }), text));
    const rotate = this.#select("Rotation", [[0, "0°"], [90, "90° clockwise"], [180, "180°"], [270, "270° clockwise"]],
      this.#shown.rotate, (value) => this.#turn({ ...this.#shown, rotate: Number(value) }));
    const flip = this.#select("Mirror", [["", "no"], ["horizontal", "left and right"], ["vertical", "top and bottom"]],
      this.#shown.flip ?? "", (value) => this.#turn({ ...this.#shown, flip: value || null }));
    this.element = el("div", { class: "area-editor" },
      el("div", { class: "settings-row area-tools" },
        el("fieldset", { class: "settings-choices" }, el("legend", {}, "Drag on the picture to"), ...tools), rotate, flip),
      el("div", { class: "area-frame" }, this.#canvas, this.#svg, this.#names),
      this.#hint,
      el("div", { class: "settings-buttons" },
        el("button", { type: "button", class: "button", onclick: () => this.#add("region") }, "Add a region"),
        el("button", { type: "button", class: "button", onclick: () => this.#add("mask") }, "Add a mask")),
      this.#list, this.#problem);
    connection.addEventListener("picture", this.#onPicture);
    connection.watch([this.#stream]);
    this.#draw();
  }

  close() {
    connection.removeEventListener("picture", this.#onPicture);
    connection.watch([]);
  }

  // Write the shapes; return whether the dialog may close.
  async save() {
    if (this.#busy) return false;
    const wrong = [...this.#list.querySelectorAll("input")].find((box) => !box.checkValidity());
    if (wrong) {
      wrong.reportValidity();
      return false;
    }
    const regions = this.#shapes.filter((shape) => shape.kind === "region");
    if (new Set(regions.map((shape) => shape.name)).size < regions.length) {
      return this.#fail("Two regions have the same name. Give each region another name.");
    }
    if (regions.length > 1 && regions.some((shape) => shape.name === "")) {
      return this.#fail("Give each region a name. Only a single region may be without one.");
    }
    this.#busy = true;
    try {
      return await this.#save({
        change: "set_area", stream: this.#stream, ...this.#shown,
        mask: this.#shapes.filter((shape) => shape.kind === "mask").map(({ points }) => points.map((each) => each.map(short))),
        regions: Object.fromEntries(regions.map(({ name, points }) => [name, rectangleOf(points).map(short)])),
      });
    } finally {
      this.#busy = false;
    }
  }

  // Show why the edit was refused, if it was.
  fail(text) {
    if (text) this.#fail(text);
  }

  #fail(text) {
    setText(this.#problem, text);
    this.#problem.hidden = text === "";
    return false;
  }

  #select(label, options, value, onchange) {
    const box = el("select", { onchange: (event) => onchange(event.target.value) },
      ...options.map(([key, text]) => el("option", { value: key, selected: key === value }, text)));
    return el("label", { class: "settings-field" }, el("span", {}, label), box);
  }

  #turn(to) {
    const matrix = between(this.#shown, to);
    for (const shape of this.#shapes) {
      const points = shape.points.map((point) => turned(point, matrix));
      shape.points = isRectangle(points) ? cornersOf(rectangleOf(points)) : points;
    }
    this.#shown = to;
    if (this.#image) this.#paint(this.#image);
    this.#draw();
  }

  #image = null;

  #onPicture = async (event) => {
    const { stream, jpeg } = event.detail;
    if (stream !== this.#stream) return;
    event.preventDefault();
    try {
      const image = await createImageBitmap(jpeg);
      const isFirst = this.#image === null;
      this.#image?.close();
      this.#image = image;
      this.#paint(image);
      if (isFirst) this.#draw(false);
    } catch {
      // a picture that cannot be decoded; the next one follows
    }
    connection.confirm(stream);
  };

  #paint(image) {
    const [a, b, c, d] = between(this.#saved, this.#shown);
    const size = a === 0 ? [image.height, image.width] : [image.width, image.height];
    if (this.#canvas.width !== size[0] || this.#canvas.height !== size[1]) [this.#canvas.width, this.#canvas.height] = size;
    const context = this.#canvas.getContext("2d", { alpha: false });
    context.setTransform(a, c, b, d, size[0] / 2, size[1] / 2);
    context.drawImage(image, -image.width / 2, -image.height / 2);
    this.#canvas.dataset.pictures = String(Number(this.#canvas.dataset.pictures ?? 0) + 1);
  }

  #point(event) {
    const box = this.#svg.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(
      (share) => Math.min(1, Math.max(0, share)));
  }

  #press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const at = this.#point(event);
    const handle = event.target.dataset?.corner;
    const index = event.target.dataset?.shape;
    if (handle !== undefined) {
      const [left, top, right, bottom] = rectangleOf(this.#selected.points);
      const opposite = [[right, bottom], [left, bottom], [left, top], [right, top]][Number(handle)];
      this.#drag = { kind: "size", shape: this.#selected, from: opposite };
    } else if (index !== undefined) {
      this.#selected = this.#shapes[Number(index)];
      this.#drag = { kind: "move", shape: this.#selected, from: at, points: this.#selected.points };
    } else if (this.#hasRoom(this.#tool)) {
      this.#drag = { kind: "new", shape: { kind: this.#tool, name: this.#freeName(this.#tool), points: cornersOf([...at, ...at]) }, from: at };
    } else return;
    this.#svg.setPointerCapture(event.pointerId);
    this.#draw();
  }

  #move(event) {
    if (!this.#drag) return;
    const at = this.#point(event);
    const { kind, shape, from, points } = this.#drag;
    if (kind === "move") {
      const [left, top, right, bottom] = rectangleOf(points);
      const dx = Math.min(1 - right, Math.max(-left, at[0] - from[0]));
      const dy = Math.min(1 - bottom, Math.max(-top, at[1] - from[1]));
      shape.points = points.map(([x, y]) => [x + dx, y + dy]);
    } else {
      const box = rectangleOf([from, at]);
      if (kind === "size" && (box[2] - box[0] < MIN_SIDE || box[3] - box[1] < MIN_SIDE)) return;
      shape.points = cornersOf(box);
      if (kind === "new" && !this.#shapes.includes(shape) && box[2] - box[0] >= MIN_SIDE && box[3] - box[1] >= MIN_SIDE) {
        this.#insert(shape);
      }
    }
    this.#draw(false);
  }

  #release(event) {
    if (!this.#drag) return;
    this.#drag = null;
    if (this.#svg.hasPointerCapture(event.pointerId)) this.#svg.releasePointerCapture(event.pointerId);
    for (const shape of this.#shapes) {
      const [left, top, right, bottom] = rectangleOf(shape.points);
      if (right - left < MIN_SIDE / 2 || bottom - top < MIN_SIDE / 2) this.#shapes = this.#shapes.filter((each) => each !== shape);
    }
    this.#draw();
  }

  #hasRoom(kind) {
    const count = this.#shapes.filter((shape) => shape.kind === kind).length;
    const most = kind === "region" ? MAX_REGIONS : MAX_MASKS;
    if (count < most) return true;
    return this.#fail(`A stream can have at most ${most} ${kind}s. Delete one first.`);
  }

  #freeName(kind) {
    if (kind === "mask") return "";
    const names = new Set(this.#shapes.map((shape) => shape.name));
    let number = 1;
    while (names.has(`region${number}`)) number += 1;
    return `region${number}`;
  }

  #add(kind) {
    if (!this.#hasRoom(kind)) return;
    this.#insert({ kind, name: this.#freeName(kind), points: cornersOf(kind === "region" ? [0.25, 0.25, 0.75, 0.75] : [0, 0, 0.25, 0.15]) });
    this.#draw();
    this.#list.querySelector("[data-selected] input")?.focus();
  }

  #insert(shape) {
    this.#fail("");
    // A region without a name can only be single.
    if (shape.kind === "region") {
      for (const each of this.#shapes) if (each.kind === "region" && each.name === "") each.name = this.#freeName("region");
      if (shape.name === this.#shapes.at(-1)?.name) shape.name = this.#freeName("region");
    }
    this.#shapes.push(shape);
    this.#selected = shape;
  }

  #remove(shape) {
    this.#shapes = this.#shapes.filter((each) => each !== shape);
    if (this.#selected === shape) this.#selected = null;
    this.#draw();
    this.element.querySelector(".settings-buttons button")?.focus();
  }

  #draw(withList = true) {
    const shapes = this.#shapes.includes(this.#drag?.shape) || !this.#drag ? this.#shapes : [...this.#shapes, this.#drag.shape];
    const parts = shapes.map((shape, index) => {
      const polygon = document.createElementNS(SVG, "polygon");
      polygon.setAttribute("points", shape.points.map((point) => point.join(",")).join(" "));
      polygon.setAttribute("class", `area-shape area-${shape.kind}`);
      polygon.toggleAttribute("data-selected", shape === this.#selected);
      polygon.dataset.shape = String(index);
      return polygon;
    });
    if (this.#selected && isRectangle(this.#selected.points)) {
      const box = this.#svg.getBoundingClientRect();
      const [rx, ry] = box.width ? [HANDLE_PX / 2 / box.width, HANDLE_PX / 2 / box.height] : [0.01, 0.015];
      cornersOf(rectangleOf(this.#selected.points)).forEach(([x, y], corner) => {
        const handle = document.createElementNS(SVG, "ellipse");
        for (const [key, value] of Object.entries({ cx: x, cy: y, rx, ry })) handle.setAttribute(key, String(value));
        handle.setAttribute("class", "area-handle");
        handle.dataset.corner = String(corner);
        parts.push(handle);
      });
    }
    this.#svg.replaceChildren(...parts);
    this.#names.replaceChildren(...shapes.filter((shape) => shape.name).map((shape) => {
      const name = el("span", { class: "area-label" }, shape.name);
      const [left, top] = rectangleOf(shape.points);
      name.style.left = `${100 * left}%`;
      name.style.top = `${100 * top}%`;
      return name;
    }));
    if (withList) this.#list.replaceChildren(...this.#shapes.map((shape, index) => this.#row(shape, index)));
    else this.#showNumbers();
    const regions = this.#shapes.filter((shape) => shape.kind === "region").length;
    const masks = this.#shapes.length - regions;
    setText(this.#hint, `${regions === 0 ? "The whole picture is classified" : regions === 1 ? "1 region is classified" : `${regions} regions are classified, each by itself`}; ` +
      `${masks === 0 ? "nothing is masked" : masks === 1 ? "1 mask" : `${masks} masks`}. Numbers are percent of the picture.` +
      `${this.#image ? "" : " No picture has arrived yet. You can already add regions and masks."}`);
  }

  #row(shape, index) {
    const title = shape.kind === "region" ? "Region" : `Mask ${this.#shapes.slice(0, index + 1).filter((each) => each.kind === "mask").length}`;
    const focus = () => {
      if (this.#selected === shape) return;
      this.#selected = shape;
      this.#draw(false);
      for (const row of this.#list.children) row.toggleAttribute("data-selected", row === item);
    };
    const fields = [];
    if (shape.kind === "region") {
      fields.push(el("label", { class: "settings-field area-name" }, el("span", {}, "Name"),
        el("input", { value: shape.name, pattern: NAME, maxlength: 64, placeholder: "without a name",
          title: "1 to 64 characters of A-Z a-z 0-9 _ -; a single region may be without a name",
          oninput: (event) => { shape.name = event.target.value.trim(); this.#draw(false); } })));
    }
    if (isRectangle(shape.points)) {
      const box = rectangleOf(shape.points);
      SIDES.forEach((side, place) => fields.push(
        el("label", { class: "settings-field area-number" }, el("span", {}, `${titleOf(side)} %`),
          el("input", { type: "number", min: 0, max: 100, step: 0.01, required: true, value: percentOf(box[place]),
            "data-side": place, oninput: (event) => this.#setSide(shape, place, event.target) }))));
    } else {
      fields.push(el("span", { class: "quiet area-corners" },
        shape.points.map(([x, y]) => `${percentOf(x)}, ${percentOf(y)}`).join(" · ")));
    }
    const item = el("li", { class: `area-row area-row-${shape.kind}`, "data-selected": shape === this.#selected, onfocusin: focus },
      el("fieldset", { class: "area-fields" }, el("legend", {}, title), ...fields),
      el("button", { type: "button", class: "button button-danger", "aria-label": `Delete ${title} ${shape.name}`.trim(),
        onclick: () => this.#remove(shape) }, "Delete"));
    return item;
  }

  #setSide(shape, place, box) {
    const sides = rectangleOf(shape.points);
    const share = Number(box.value) / 100;
    const other = sides[(place + 2) % 4];
    const isRight = place < 2 ? share < other : share > other;
    box.setCustomValidity(isRight ? "" : `${titleOf(SIDES[place % 2])} must be less than ${SIDES[place % 2 + 2]}.`);
    if (!isRight || !box.checkValidity()) return;
    sides[place] = share;
    shape.points = cornersOf(sides);
    this.#draw(false);
  }

  // Show the numbers of shapes that are dragged, but not in a field that is being typed in.
  #showNumbers() {
    if (this.#list.children.length !== this.#shapes.length) {
      this.#list.replaceChildren(...this.#shapes.map((shape, index) => this.#row(shape, index)));
      return;
    }
    this.#shapes.forEach((shape, index) => {
      if (!isRectangle(shape.points)) return;
      const sides = rectangleOf(shape.points);
      for (const box of this.#list.children[index].querySelectorAll("[data-side]")) {
        if (box !== document.activeElement) box.value = percentOf(sides[Number(box.dataset.side)]);
      }
    });
  }
}

const titleOf = (side) => side[0].toUpperCase() + side.slice(1);

function percentOf(share) {
  return String(Math.round(share * 1e4) / 100);
}
