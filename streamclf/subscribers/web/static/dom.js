// Make elements, and format values. Text of events reaches the page as text nodes and attributes only, never as HTML.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A form field with its label above it.
export function field(label, box) {
  return el("label", { class: "settings-field" }, el("span", {}, label), box);
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// 4.2 s, 1:05 min, 2:03:00 h
export function duration(seconds) {
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)} min`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)} h`;
}

export function percent(probability) {
  return `${Math.round(probability * 100)} %`;
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

export function timeOfDay(date) {
  return date.toLocaleTimeString([], { hour12: false });
}

export function day(date) {
  const today = new Date();
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  const text = date.toLocaleDateString([], { weekday: "long", year: "numeric", month: "long", day: "numeric" });
  if (date.toDateString() === today.toDateString()) return `Today, ${text}`;
  if (date.toDateString() === yesterday.toDateString()) return `Yesterday, ${text}`;
  return text;
}

// Call the page's REST. An error's message is the answer's `detail`.
export async function call(path, options = {}) {
  const headers = options.body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await fetch(path, { cache: "no-store", headers, ...options });
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const detail = typeof body.detail === "string" ? body.detail : (body.detail?.[0]?.msg ?? `error ${answer.status}`);
    throw Object.assign(new Error(detail), { status: answer.status });
  }
  return body;
}
