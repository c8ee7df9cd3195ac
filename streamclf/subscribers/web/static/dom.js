// Make elements, and format values. Text of events reaches the page as text nodes and attributes only, never as HTML.

const RESULT_POLL_MS = 500;
const RESULT_MS = 20_000; // the service reads a changed file within about two seconds; its checks take more

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

// Set the name of an element that screen readers read.
export function setLabel(element, text) {
  if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-label", text);
}

// Describe a line of a chart: "last 0.12 at 13:05:09, highest 0.93 at 13:02:11", or with `isNow` "now 0.12, highest …".
// `times` are Unix milliseconds; a value is null where its label was not among the most probable ones. Empty without values.
export function describeLine(times, values, format, isNow = false) {
  let best = 0;
  for (let index = 1; index < values.length; index += 1) {
    if (values[index] !== null && values[index] > (values[best] ?? -1)) best = index;
  }
  if ((values[best] ?? null) === null) return "";
  const at = (index) => ` at ${clock(new Date(times[index]))}`;
  const last = values.at(-1) === null ? "not among the most probable labels" : format(values.at(-1));
  const highest = format(values[best]);
  return `${isNow ? "now" : "last"} ${last}${isNow ? "" : at(values.length - 1)}, ` +
    (highest === last ? "the highest value" : `highest ${highest}${at(best)}`);
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

// 94 %; "> 99 %" where rounding would claim certainty
export function percent(probability) {
  return probability > 0.994 && probability < 1 ? "> 99 %" : `${Math.round(100 * probability)} %`;
}

// 42 ms, 1.8 s; "–" for null
export function milliseconds(value) {
  if (value === null) return "–";
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
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

// 13:05:09. With `hour12: false`, Chromium shows midnight as 24:00:00.
export function timeOfDay(date) {
  return date.toLocaleTimeString([], { hourCycle: "h23" });
}

// The date and 13:05:09
export function moment(date) {
  return date.toLocaleString([], { hourCycle: "h23" });
}

// A time of today as 13:05:09, another day with its date
export function clock(date) {
  return date.toDateString() === new Date().toDateString() ? timeOfDay(date) : moment(date);
}

export function day(date) {
  const today = new Date();
  const yesterday = new Date(today.getFullYear(), today.getMonth(), today.getDate() - 1);
  const text = date.toLocaleDateString([], { weekday: "long", year: "numeric", month: "long", day: "numeric" });
  if (date.toDateString() === today.toDateString()) return `Today, ${text}`;
  if (date.toDateString() === yesterday.toDateString()) return `Yesterday, ${text}`;
  return text;
}

// Show the login form; it leads back to this page.
export function logIn() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

// Wait until the service has read the save `saved` of the configuration, as long as `goesOn()` is true. Returns how it
// was received: `outcome` is "applied", "refused" or "unread", `reason` a text for people.
export async function waitForService(saved, goesOn = () => true) {
  const end = Date.now() + RESULT_MS;
  let result = null;
  while (Date.now() < end && goesOn()) {
    result = await call(`/api/settings/result?saved=${encodeURIComponent(saved)}`).catch(() => null);
    if (result?.outcome === "applied" || result?.outcome === "refused") return result;
    await new Promise((resolve) => setTimeout(resolve, RESULT_POLL_MS));
  }
  const reason = result === null
    ? "The page's server does not answer, so the page cannot show whether the service has applied it."
    : "The service has not read it yet. Check that the service runs, and that it uses this file.";
  return { outcome: "unread", reason };
}

// Call the page's REST. An error's message is a reason for people: the answer's `detail` if it is a text. Its `detail`
// is that of the answer, and its `status` is undefined if there was no answer.
export async function call(path, options = {}) {
  const headers = options.body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", headers, ...options });
  } catch {
    throw new Error("the page's server does not answer; check that it runs");
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const { status } = answer;
  if (status === 401) logIn(); // the login has ended
  const { detail } = body;
  const reason = typeof detail === "string" ? detail : detail?.message ?? detail?.[0]?.msg;
  throw Object.assign(new Error(reason ?? `the page's server answered with the error ${status}; see its log`), { status, detail });
}
