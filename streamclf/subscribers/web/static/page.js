// The connection of every page to its server: states, pictures, and the notice of a service or a page that is away.
// Module of all pages. Others import `connection` and listen to its events: "service", "states", "picture",
// and "away" when the service or the page's server leaves or returns.

import { clock, logIn } from "/static/dom.js";

const RETRY_MS = [500, 8000];
const FULL = 4503; // as in wall.py

class Connection extends EventTarget {
  service = null; // as in GET /api/service
  states = new Map(); // by stream, as in GET /api/streams
  #socket = null;
  #retryMs = RETRY_MS[0];
  #lostSince = null;
  #refusal = ""; // why the server closed the connection, if it said so
  #wanted = { seen: [], stills: [] };
  #handled = { drawn: [], states: 0 };
  #timer = null;

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#retryMs = RETRY_MS[0];
      this.#handled = { drawn: [], states: 0 };
      this.#send(this.#wanted);
    };
    socket.onmessage = (event) => {
      this.#lostSince = null; // not sooner: a full server accepts, and closes
      if (typeof event.data === "string") this.#takeStates(JSON.parse(event.data));
      else this.#takePicture(event.data);
    };
    socket.onclose = (event) => {
      this.#socket = null;
      this.#lostSince ??= new Date();
      this.#refusal = event.code === FULL ? event.reason : "";
      this.#show();
      this.#checkLogin();
      setTimeout(() => this.open(), this.#refusal ? RETRY_MS[1] : this.#retryMs * (0.75 + Math.random() / 2));
      this.#retryMs = Math.min(RETRY_MS[1], 2 * this.#retryMs);
    };
    this.#socket = socket;
  }

  // Tell the server which streams are in sight, and of which a still now and then is enough.
  watch(seen, stills = []) {
    const wanted = { seen: [...seen], stills: [...stills] };
    if (JSON.stringify(wanted) === JSON.stringify(this.#wanted)) return;
    this.#wanted = wanted;
    this.#send(wanted);
  }

  // Confirm that a picture of this stream was drawn; the server then sends the next one.
  confirm(stream) {
    this.#handled.drawn.push(stream);
    this.#confirmSoon();
  }

  get isAway() {
    return this.#lostSince !== null || this.service === null || this.service.away_since !== null;
  }

  #confirmSoon() {
    // Browsers run the timers of hidden pages once a minute only.
    if (document.visibilityState === "hidden") this.#sendHandled();
    else this.#timer ??= setTimeout(() => this.#sendHandled(), 15);
  }

  #sendHandled() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const handled = this.#handled;
    this.#handled = { drawn: [], states: 0 };
    this.#send(handled);
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #takeStates(message) {
    this.#handled.states += 1;
    this.#confirmSoon();
    this.service = message.service;
    const names = new Set(message.service.streams);
    for (const name of this.states.keys()) if (!names.has(name)) this.states.delete(name);
    for (const state of message.states) this.states.set(state.stream, state);
    this.#show();
    this.dispatchEvent(new CustomEvent("service", { detail: this.service }));
    this.dispatchEvent(new CustomEvent("states", { detail: message.states }));
  }

  #takePicture(buffer) {
    const bytes = new Uint8Array(buffer);
    const end = 1 + bytes[0];
    const stream = new TextDecoder().decode(bytes.subarray(1, end));
    const jpeg = new Blob([bytes.subarray(end)], { type: "image/jpeg" });
    const event = new CustomEvent("picture", { detail: { stream, jpeg }, cancelable: true });
    if (this.dispatchEvent(event)) this.confirm(stream); // nobody draws it
  }

  async #checkLogin() {
    try {
      const answer = await fetch("/api/service");
      if (answer.status === 401) logIn();
    } catch {
      // the page's server is away, as the notice says; the next attempt follows
    }
  }

  #show() {
    const notice = document.getElementById("notice");
    const label = document.getElementById("service-state");
    if (!notice || !label) return;
    let text = "";
    let state = "live";
    if (this.#lostSince) {
      const reason = this.#refusal ? `: ${this.#refusal}` : "";
      text = `The page has had no connection to its server since ${clock(this.#lostSince)}${reason}. ` +
        `It connects again by itself.${reason ? "" : " If this takes longer than a minute, check that the server runs."}`;
      state = "no connection";
    } else if (this.service?.away_since) {
      const last = this.service.streams.length ? " The page shows the last known state." : "";
      text = `The service at ${this.service.endpoint} has sent no events since ${clock(new Date(this.service.away_since))}. ` +
        `Check that it runs.${last}`;
      state = "service silent";
    } else if (this.service === null) {
      state = "connecting";
    }
    if (notice.textContent !== text) notice.textContent = text;
    notice.hidden = text === "";
    if (label.textContent !== state) label.textContent = state;
    label.dataset.state = state;
    const was = document.documentElement.dataset.service;
    document.documentElement.dataset.service = state === "live" ? "live" : "away";
    if (was !== document.documentElement.dataset.service) this.dispatchEvent(new Event("away"));
  }
}

// Return the state of a stream in a word, with the reason if there is one. `state` is null before the first one.
export function stateOf(state) {
  if (connection.isAway || !state) return { word: "no data", reason: "" };
  if (state.finished) return { word: "finished", reason: "" };
  if (state.paused) return { word: "paused", reason: "" };
  return { word: state.state, reason: state.state === "live" ? "" : (state.reason ?? "") };
}

// The elements of NiceGUI's pages appear once its application runs.
export function whenReady(id) {
  return new Promise((resolve) => {
    const find = () => {
      const element = document.getElementById(id);
      if (element) resolve(element);
      else requestAnimationFrame(find);
    };
    find();
  });
}

export const connection = new Connection();

document.addEventListener("click", (event) => {
  if (event.target.closest?.("#theme")) globalThis.changeTheme();
});
await whenReady("notice");
connection.open();
