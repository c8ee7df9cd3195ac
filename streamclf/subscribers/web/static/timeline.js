// The probabilities of one stream over the last hour, in a chart that scrolls and zooms.
import { call, describeLine, percent, setLabel } from "/static/dom.js";

const HOUR_MS = 3600_000;
const DRAW_MS = 1000;
const STEP_MS = 1000; // new predictions of this time share a point, which shows the highest probabilities
const GAP_MS = 20_000; // after a longer time without predictions, the line begins again
const MAX_SERIES = 6;
const NO_DATA = "There is no prediction in the last hour.";
const COLOURS = {
  dark: ["#7fd1ae", "#8ab8f0", "#eeb26a", "#d79bd8", "#e6dd7c", "#f28b82"],
  light: ["#12694d", "#1f5fa8", "#9a5a00", "#8a3d8c", "#6b6200", "#a4201a"],
};

export class Timeline {
  #chart = null;
  #name = "";
  #times = [];
  #series = new Map(); // by label, values at #times
  #shown = []; // the labels that are drawn, with their values
  #latest = 0;
  #closed = false;
  #dirty = false;
  #timer = null;
  #resize = null;
  #restyle = () => this.#draw(true);

  // `view` has the names of a region and of a model; null for a stream with one view without names.
  constructor(element, stream, view = null) {
    this.element = element;
    this.stream = stream;
    this.view = view;
    this.head = document.createElement("h2");
    const name = view === null ? "" : [view.region, view.model_name].filter(Boolean).join(" · ") || "whole picture";
    this.head.textContent = `Probabilities of the last hour${name ? `: ${name}` : ""}`;
    this.box = document.createElement("div");
    this.box.className = "chart";
    this.box.setAttribute("role", "img");
    setLabel(this.box, `Chart: ${this.head.textContent}`);
    this.note = document.createElement("p");
    this.note.className = "chart-note";
    this.#say("Reading the journal…");
    element.append(this.head, this.note, this.box);
    this.#start();
  }

  // Add the present state of the view; `name` is the stream's for people.
  add(state, name) {
    this.#name = name;
    if (state.predicted === null || this.#chart === null) return;
    const at = Date.parse(state.predicted);
    if (at <= this.#latest) return;
    this.#latest = at;
    this.#append(at, state.top);
    if (this.note.textContent === NO_DATA) this.#say("");
    this.#dirty = true;
  }

  #say(text) {
    this.note.textContent = text;
    this.note.hidden = text === "";
  }

  close() {
    this.#closed = true;
    clearInterval(this.#timer);
    this.#resize?.disconnect();
    removeEventListener("themechange", this.#restyle);
    this.#chart?.dispose();
    this.#chart = null;
  }

  async #start() {
    try {
      const [{ echarts }, history] = await Promise.all([import("nicegui-echart"), this.#fetch()]);
      if (this.#closed) return;
      for (const each of history.series) this.#series.set(each.label, []);
      history.times.forEach((at, index) => {
        const last = this.#times.at(-1) ?? at;
        if (at - last > GAP_MS) this.#push(last + 1, new Map());
        this.#push(at, new Map(history.series.map(({ label, values }) => [label, values[index]])));
      });
      this.#latest = this.#times.at(-1) ?? 0;
      this.#chart = echarts.init(this.box, null, { renderer: "canvas" });
      this.#say(!history.complete ? "The chart does not show the whole hour: the journal does not reach back an hour, or reading it took too long."
        : this.#times.length === 0 ? NO_DATA : "");
      this.#draw(true);
      this.#describe();
      this.box.dataset.points = String(this.#times.length);
      this.#resize = new ResizeObserver(() => this.#chart?.resize());
      this.#resize.observe(this.box);
      addEventListener("themechange", this.#restyle);
      this.#timer = setInterval(() => {
        if (document.visibilityState !== "visible") return;
        if (this.#dirty) this.#draw(false);
        this.#describe();
      }, DRAW_MS);
    } catch (error) {
      this.#say(`The chart cannot be shown: ${error.message}. Load this page again to retry.`);
    }
  }

  async #fetch() {
    const names = this.view === null ? "" : `?${new URLSearchParams({ region: this.view.region ?? "", model: this.view.model_name ?? "" })}`;
    return call(`/api/streams/${this.stream}/timeline${names}`);
  }

  #append(at, top) {
    const oldest = at - HOUR_MS;
    let gone = 0;
    while (this.#times.length > gone && this.#times[gone] < oldest) gone += 1;
    this.#times.splice(0, gone);
    for (const values of this.#series.values()) values.splice(0, gone);
    const now = new Map(top);
    const last = this.#times.at(-1) ?? 0;
    if (at - last < STEP_MS) {
      for (const [label, values] of this.#series) {
        const value = Math.max(values.at(-1) ?? 0, now.get(label) ?? 0);
        values[values.length - 1] = value;
      }
      return;
    }
    if (at - last > GAP_MS && last) this.#push(last + 1, new Map());
    for (const [label] of top) {
      if (!this.#series.has(label) && this.#series.size < 4 * MAX_SERIES) {
        this.#series.set(label, Array(this.#times.length).fill(null));
      }
    }
    this.#push(at, now);
    this.box.dataset.points = String(this.#times.length);
  }

  #push(at, values) {
    this.#times.push(at);
    for (const [label, known] of this.#series) known.push(values.get(label) ?? null);
  }

  // The labels that had the highest probabilities in sum.
  #chosen() {
    const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
    const ranked = [...this.#series].map(([label, values]) => [sum(values), label, values]);
    return ranked.sort((a, b) => b[0] - a[0]).slice(0, MAX_SERIES).map(([, ...line]) => line);
  }

  // Say in words what the chart shows. Screen readers read it when asked; no change is announced.
  #describe() {
    const isNow = Date.now() - this.#latest < GAP_MS;
    const lines = this.#shown.flatMap(([label, values]) => {
      const line = describeLine(this.#times, values, percent, isNow);
      return line ? [`${label}: ${line}`] : []; // a label without a value in this hour has no line
    });
    setLabel(this.box, `Chart of ${this.#name}. ${this.head.textContent}. ${lines.join("; ") || NO_DATA}`);
  }

  #draw(whole) {
    if (!this.#chart) return;
    this.#dirty = false;
    const theme = document.documentElement.dataset.theme === "light" ? "light" : "dark";
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const text = { color: colour("--muted"), fontFamily: style.getPropertyValue("--font") };
    this.#shown = this.#chosen();
    const series = this.#shown.map(([label, values]) => ({
      name: label,
      type: "line",
      data: this.#times.map((at, index) => [at, values[index]]),
      showSymbol: false,
      sampling: "lttb",
      lineStyle: { width: 1.6 },
      emphasis: { disabled: true },
      connectNulls: false,
    }));
    const end = Math.max(Date.now(), this.#latest);
    const options = {
      animation: false,
      color: COLOURS[theme],
      textStyle: text,
      grid: { left: 44, right: 16, top: 30, bottom: 58 },
      legend: { top: 0, left: 40, textStyle: text, icon: "roundRect", itemWidth: 12, itemHeight: 4, type: "scroll" },
      tooltip: {
        trigger: "axis",
        renderMode: "richText", // labels are any text; the HTML mode would have to escape them
        backgroundColor: colour("--panel-2"),
        borderColor: colour("--line"),
        textStyle: { color: colour("--text") },
        valueFormatter: (value) => (value === null || value === undefined ? "–" : percent(value)),
      },
      xAxis: {
        type: "time",
        min: end - HOUR_MS,
        max: end,
        axisLine: { lineStyle: { color: colour("--line") } },
        axisLabel: { ...text, hideOverlap: true },
        splitLine: { show: false },
      },
      yAxis: {
        type: "value",
        min: 0,
        max: 1,
        interval: 0.5,
        axisLabel: { ...text, formatter: (value) => `${100 * value} %` },
        splitLine: { lineStyle: { color: colour("--line") } },
      },
      dataZoom: [
        { type: "inside", filterMode: "none" },
        {
          type: "slider",
          height: 22,
          bottom: 6,
          filterMode: "none",
          borderColor: colour("--line"),
          fillerColor: "rgba(127, 160, 150, 0.18)",
          textStyle: text,
          brushSelect: false,
          ...(whole ? { start: this.#series.size ? 83 : 0, end: 100 } : {}),
        },
      ],
      series,
    };
    if (whole && !this.#chart.getOption()?.dataZoom) options.dataZoom[0] = { ...options.dataZoom[0], start: 83, end: 100 };
    else for (const zoom of options.dataZoom) { delete zoom.start; delete zoom.end; }
    this.#chart.setOption(options, { replaceMerge: ["series"] });
  }
}
