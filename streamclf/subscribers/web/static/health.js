// The page Health: how the service is, from GET /api/health.
import { whenReady } from "/static/page.js";
import { bytes, call, clock, duration, el, milliseconds, setText } from "/static/dom.js";

const POLL_MS = 2000;
const NUMBER = new Intl.NumberFormat();

// A table whose cells change in place, so that a selection or the focus is not lost. Each column is
// [heading, function of the row that returns a text or an element, class].
class Table {
  constructor(title, columns, empty) {
    this.columns = columns;
    this.body = el("tbody");
    this.note = el("p", { class: "health-note", hidden: true });
    this.emptyText = empty;
    const head = el("tr", {}, ...columns.map(([heading, , kind]) => el("th", { scope: "col", class: kind }, heading)));
    this.box = el("div", { class: "health-scroll", tabindex: "0", role: "region", "aria-label": title }, el("table", {}, el("thead", {}, head), this.body));
    this.root = el("section", { class: "panel" }, el("h2", {}, title), this.note, this.box);
  }

  show(rows, note = null) {
    const text = note ?? (rows.length === 0 ? this.emptyText : "");
    setText(this.note, text);
    this.note.hidden = text === "";
    this.box.hidden = rows.length === 0;
    while (this.body.rows.length > rows.length) this.body.deleteRow(-1);
    rows.forEach((row, index) => {
      const line = this.body.rows[index] ?? this.body.appendChild(el("tr", {}, ...this.columns.map(([, , kind]) => el("td", { class: kind }))));
      this.columns.forEach(([, value], column) => {
        const content = value(row);
        const cell = line.cells[column];
        if (typeof content === "string") setText(cell, content);
        else if (cell.textContent !== content.textContent || cell.firstElementChild?.className !== content.className) cell.replaceChildren(content);
      });
    });
  }
}

const when = (text) => (text === null ? "" : clock(new Date(text)));
const number = (value, digits = 0) => (value === null ? "–" : value.toFixed(digits));
const state = (text) => el("span", { class: `state state-${text}` }, text);

// Write {cpu: 4, cpu_used: 1.5, memory: 8} as "cpu 1.5 of 4, memory 8".
function capacity(numbers) {
  const short = (value) => NUMBER.format(Math.round(10 * value) / 10);
  return Object.keys(numbers).filter((key) => !(key.endsWith("_used") && key.slice(0, -5) in numbers)).map((key) => {
    const used = numbers[`${key}_used`];
    return `${key} ${used === undefined ? "" : `${short(used)} of `}${short(numbers[key])}`;
  }).join(", ");
}

// What each cause drops, as in docs/protocol.md.
const DROPS = {
  partial: "frames of incomplete chunks",
  corrupt: "broken frames",
  stale: "late frames",
  sender: "frames dropped by the sender",
  overload: "chunks (overload)",
  overrun: "chunks (overrun)",
  window: "windows (too many chunks waited)",
  outdated: "windows (outdated)",
  hop: "windows (longer hop)",
  link: "events (the hub was away)",
  lost_packets: "lost packets",
};

function drops(dropped) {
  const causes = Object.entries(dropped);
  return causes.length === 0 ? "0" : causes.map(([cause, count]) => `${NUMBER.format(count)} ${DROPS[cause] ?? cause}`).join(", ");
}

const STREAMS = [
  ["Stream", (s) => (s.name === s.stream ? s.stream : `${s.name} (${s.stream})`), "wide"],
  ["State", (s) => state(s.paused ? "paused" : s.finished ? "finished" : s.state), ""],
  ["Since", (s) => when(s.since), "num"],
  ["Reason", (s) => [s.reason, s.note].filter(Boolean).join("; "), "wide reason"],
  ["Frames/s", (s) => number(s.fps, 1), "num right"],
  ["Predictions/s", (s) => number(s.predictions_per_s, 1), "num right"],
  ["Latency p50", (s) => milliseconds(s.latency_p50_ms), "num right"],
  ["Latency p99", (s) => milliseconds(s.latency_p99_ms), "num right"],
  ["Dropped", (s) => drops(s.dropped), "num wide"],
  ["Video", (s) => [s.codec, s.width && `${s.width}×${s.height}`].filter(Boolean).join(" "), "num"],
  ["Decoded by", (s) => s.decoding ?? "", ""],
];
const PROCESSES = [
  ["Process", (p) => (p.subject === null ? p.name : `${p.name} ${p.subject}`), "wide"],
  ["CPU", (p) => (p.cpu === null ? "–" : `${(100 * p.cpu).toFixed(1)} %`), "num right"],
  ["Memory", (p) => (p.memory_bytes === null ? "–" : bytes(p.memory_bytes)), "num right"],
  ["Running for", (p) => duration(p.age_s), "num right"],
  ["PID", (p) => String(p.pid), "num right"],
];
const OUTLETS = [
  ["Outlet", (o) => o.name, "wide"],
  ["State", (o) => state(o.state), ""],
  ["Since", (o) => when(o.since), "num"],
  ["Reason", (o) => o.reason ?? "", "wide reason"],
  ["Delivered", (o) => NUMBER.format(o.delivered), "num right"],
  ["Refused", (o) => NUMBER.format(o.refused), "num right"],
  ["Lost ranges", (o) => NUMBER.format(o.lost), "num right"],
];
const NODES = [
  ["Node", (n) => n.name, "wide"],
  ["State", (n) => state(n.state), ""],
  ["Since", (n) => when(n.since), "num"],
  ["Reason", (n) => n.reason ?? "", "wide reason"],
  ["Streams", (n) => NUMBER.format(n.streams.length), "num right"],
  ["Capacity", (n) => capacity(n.capacity), "num wide"],
  ["Refused", (n) => NUMBER.format(n.refused), "num right"],
  ["Version", (n) => n.version ?? "", ""],
];
const STORAGE = [
  ["Part", (r) => r[0], "wide"],
  ["Value", (r) => r[1], "num wide"],
];
const CHANGES = [
  ["Time", (c) => when(c.time), "num"],
  ["Stream", (c) => c.stream, "wide"],
  ["State", (c) => state(c.state), ""],
  ["Reason", (c) => c.reason ?? "", "wide reason"],
];
const ELSEWHERE = "The service is not on this machine, or runs as another user.";

function storage(report) {
  const { journal, clips } = report;
  const rows = [];
  if (journal.head !== null) {
    rows.push(["Events in the journal", `${NUMBER.format(Math.max(0, journal.head - journal.oldest + 1))} (offsets ${journal.oldest} to ${journal.head})`]);
  }
  if (journal.not_durable) rows.push(["Events that could not be written", NUMBER.format(journal.not_durable)]);
  if (journal.file !== null) {
    rows.push(["Journal", `${journal.file.path}, ${bytes(journal.file.bytes)}`]);
    rows.push(["Disk of the journal", `${bytes(journal.file.free_bytes)} free of ${bytes(journal.file.disk_bytes)}`]);
  }
  if (clips !== null) {
    rows.push(["Clips", clips.folder]);
    rows.push(["Disk of the clips", clips.fault ?? `${bytes(clips.free_bytes)} free of ${bytes(clips.disk_bytes)}`]);
  }
  return rows;
}

class HealthPage {
  #shown = null; // when the values were read

  constructor(root) {
    this.summary = el("div", { class: "health-summary", role: "status" });
    this.streams = new Table("Streams: rates and latencies of the last minute, drops since the start", STREAMS, "The service has no streams.");
    this.processes = new Table("Processes", PROCESSES, ELSEWHERE);
    this.outlets = new Table("Outlets", OUTLETS, "The service has no outlets.");
    this.nodes = new Table("Nodes", NODES, "No node of the fleet has been ready yet.");
    this.storage = new Table("Journal and disk", STORAGE, "No data yet.");
    this.changes = new Table("Changes of state", CHANGES, "No changes yet.");
    this.log = el("pre", { class: "health-log", tabindex: "0", "aria-label": "Last lines of the log" });
    this.logNote = el("p", { class: "health-note", hidden: true });
    const log = el("section", { class: "panel panel-full" }, el("h2", {}, "Log"), this.logNote, this.log);
    for (const table of [this.streams, this.nodes]) table.root.classList.add("panel-full");
    this.nodes.root.hidden = true;
    root.append(this.summary, el("div", { class: "panels" }, this.streams.root, this.nodes.root, this.processes.root, this.outlets.root, this.storage.root, this.changes.root, log));
    this.#poll();
  }

  async #poll() {
    try {
      if (!document.hidden || this.summary.childElementCount === 0) this.#show(await call("/api/health"));
    } catch (error) {
      const old = this.#shown === null ? "" : ` The values below are those of ${clock(this.#shown)}.`;
      this.#summarize([`The state of the service cannot be read: ${error.message}.${old}`], "");
    }
    setTimeout(() => this.#poll(), POLL_MS);
  }

  #show(report) {
    this.#shown = new Date();
    const live = report.streams.filter((each) => each.state === "live").length;
    this.#summarize(report.problems, `No problems. Live streams: ${live} of ${report.streams.length}.`);
    const noData = report.away_since === null ? null : "No data from the service.";
    this.streams.show(report.streams, report.streams.length ? null : noData);
    this.processes.show(report.processes ?? [], report.processes === null ? ELSEWHERE : null);
    this.nodes.root.hidden = report.nodes === null;
    this.nodes.show(report.nodes ?? []);
    this.outlets.show(report.outlets, report.outlets.length ? null : noData);
    this.storage.show(storage(report));
    this.changes.show(report.changes);
    const text = (report.log ?? []).join("\n");
    if (this.log.textContent !== text) {
      const isAtEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 20;
      this.log.textContent = text;
      if (isAtEnd) this.log.scrollTop = this.log.scrollHeight;
    }
    let missing = text === "" ? "The log has no lines yet." : "";
    if (report.log === null) missing = report.processes === null ? `${ELSEWHERE} Its log cannot be shown here.` : "The log cannot be shown: the page is limited to some streams, or the service keeps no log lines.";
    setText(this.logNote, missing);
    this.logNote.hidden = missing === "";
    this.log.hidden = missing !== "";
  }

  #summarize(problems, good) {
    const lines = (problems.length ? problems : [good]).map((line) => line[0].toUpperCase() + line.slice(1));
    this.summary.classList.toggle("is-bad", problems.length > 0);
    if (this.summary.textContent === lines.join("")) return;
    this.summary.replaceChildren(...lines.map((line) => el("p", {}, line)));
  }
}

new HealthPage(await whenReady("health"));
