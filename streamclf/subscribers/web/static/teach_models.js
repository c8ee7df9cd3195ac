// Train a model, show how good it is, and make it live.

import { clock, duration, el, percent, setText, waitForService } from "/static/dom.js";

const POLL_MS = 700;
const STAGES = { start: "Starting", read: "Reading the films", measure: "Measuring on held-out films", fit: "Fitting the head", write: "Writing the model" };

export class Models {
  #page;
  #key = "";
  #poll = null;
  #advice = el("ul", { class: "teach-advice" });
  #train = el("button", { type: "button", class: "button button-main", onclick: () => this.#start() }, "Train");
  #cancel = el("button", { type: "button", class: "button", hidden: true, onclick: () => this.#page.send("/api/teach/cancel", undefined, "") }, "Cancel");
  #bar = el("progress", { max: 1, value: 0, "aria-label": "Progress of the training", hidden: true });
  #text = el("p", { class: "teach-progress", role: "status" });
  #problem = el("p", { class: "settings-problem", role: "alert", hidden: true });
  #notes = el("pre", { class: "settings-diff", tabindex: "0", "aria-label": "Remarks of the training" });
  #notesBox = el("details", { hidden: true }, el("summary", {}, "Remarks"), this.#notes);
  #versions = el("ul", { class: "teach-versions" });

  constructor(page) {
    this.#page = page;
    this.element = el("section", { class: "settings-section" },
      el("h2", {}, "Next examples"), this.#advice,
      el("div", { class: "settings-buttons" }, this.#train, this.#cancel), this.#bar, this.#text, this.#problem, this.#notesBox,
      this.#versions);
  }

  show() {
    const { project, state } = this.#page;
    this.#showTraining(state.training);
    if (!project) return;
    const running = state.training?.outcome === "running";
    this.#train.disabled = running || !project.can_train;
    const advice = project.advice.length ? project.advice : ["There are enough examples of every label. Train the model."];
    replaceText(this.#advice, advice);
    const key = JSON.stringify([project.project, project.versions, this.#page.stream, this.#page.region]);
    if (key === this.#key) return;
    this.#key = key;
    const live = project.versions.filter((each) => each.is_live);
    const focused = this.#versions.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.#versions.replaceChildren(...project.versions.map((each, index) => this.#version(each, live, index === 0)));
    if (focused !== null) [...this.#versions.querySelectorAll("button")].find((each) => each.getAttribute("aria-label") === focused)?.focus();
  }

  #showTraining(training) {
    const running = training?.outcome === "running";
    const isOwn = training && training.project === this.#page.name;
    this.#cancel.hidden = !running;
    this.#bar.hidden = !running;
    this.#problem.hidden = !(isOwn && training.outcome === "failed");
    if (running) {
      this.#bar.value = training.share;
      const left = training.left_s === null ? "" : `, about ${duration(training.left_s)} left`;
      setText(this.#text, `${training.version}: ${STAGES[training.stage] ?? training.stage}${training.film ? ` ${training.film}` : ""}${left}`);
      this.#poll ??= setTimeout(() => { this.#poll = null; this.#page.refresh(); }, POLL_MS);
    } else if (isOwn && training.outcome === "done") setText(this.#text, `${training.version} was trained in ${duration(training.seconds)}.`);
    else if (isOwn && training.outcome === "cancelled") setText(this.#text, "The training was cancelled.");
    else setText(this.#text, "");
    if (isOwn && training.outcome === "failed") setText(this.#problem, `Not trained: ${training.error}`);
    this.#notesBox.hidden = !isOwn || training.notes.length === 0;
    setText(this.#notes, (training?.notes ?? []).join("\n"));
  }

  async #start() {
    this.#train.disabled = true;
    await this.#page.send(`${this.#page.base}/train`, undefined, "");
  }

  #version(version, live, isNewest) {
    const { stream, region, base } = this.#page;
    const place = region ? `${stream}, region ${region}` : stream;
    const others = live.filter((each) => each.name !== version.name);
    const buttons = [];
    if (!version.is_live) {
      buttons.push(this.#button(`Go live on ${place}`, version, isNewest, () => this.#change(`${base}/live`, { version: version.name, stream, region })));
    } else {
      if (others.length) buttons.push(this.#button(`Keep ${version.name}, stop serving ${others.map((each) => each.name).join(", ")}`, version, true, () => this.#change(`${base}/keep`, { version: version.name })));
      buttons.push(this.#button(others.length ? `Go back to ${others[0].name}` : `Stop serving ${version.name}`, version, false, () => this.#change(`${base}/back`, { version: version.name })));
    }
    const views = version.views.map(([name, part]) => (part ? `${name}/${part}` : name)).join(", ");
    return el("li", { class: "teach-version", "data-version": version.name },
      el("div", { class: "teach-version-head" },
        el("strong", {}, version.name),
        el("span", { class: "teach-badge", "data-live": version.is_live }, version.is_live ? `live on ${views || "no stream"}` : "not live"),
        el("span", { class: "quiet" }, clock(new Date(version.made * 1000))),
        version.has_report ? el("a", { href: `${base}/report/${encodeURIComponent(version.name)}`, download: `${version.name}.html` }, "Report") : null),
      el("div", { class: "settings-buttons" }, ...buttons),
      version.result ? this.#figures(version.result, isNewest) : null);
  }

  #button(text, version, isMain, onclick) {
    return el("button", { type: "button", class: isMain ? "button button-main" : "button", "aria-label": `${text} (${version.name})`, onclick }, text);
  }

  async #change(path, body) {
    const changes = await this.#page.send(path, body, "Written to the configuration. Waiting for the service…");
    if (!changes) return;
    const { saved, description } = changes[changes.length - 1];
    const result = await waitForService(saved);
    if (result.outcome === "refused") {
      this.#page.say("");
      return this.#page.fail(`${description}: written, but the service refuses it and continues as before: ${result.reason}`);
    }
    return this.#page.say(`${description}: ${result.outcome === "applied" ? "the service has applied it." : `written. ${result.reason}`}`);
  }

  // The figures of films that the model did not see while it was fitted.
  #figures(result, isOpen) {
    const accuracy = result.balanced_accuracy;
    const interval = Array.isArray(result.interval) ? ` (95 % interval: ${percent(result.interval[0])} to ${percent(result.interval[1])})` : "";
    const taught = (result.per_label ?? []).map((each) => each.label);
    return el("details", { class: "teach-figures", open: isOpen },
      el("summary", {}, accuracy === null || accuracy === undefined ? "Accuracy: not measured" : `Balanced accuracy on held-out films: ${percent(accuracy)}${interval}`),
      ...(result.advice ?? []).slice(0, 6).map((text) => el("p", { class: "teach-remark" }, text)),
      ...(result.alike ?? []).map((each) => el("p", { class: "teach-remark" }, `${each.labels.join(" and ")} are too alike: the model confuses ${percent(each.confused)} of their clips. ${each.advice ?? ""}`)),
      taught.length ? this.#confusion(result, taught) : null,
      (result.wrong ?? []).length ? el("h3", {}, "Held-out films with a wrong prediction") : null,
      (result.wrong ?? []).length ? el("ul", { class: "teach-wrong" }, ...result.wrong.slice(0, 20).map((each) => this.#wrong(each))) : null);
  }

  #confusion(result, taught) {
    const columns = result.labels ?? taught;
    const rows = result.confusion ?? [];
    return el("div", { class: "teach-table", tabindex: "0", role: "region", "aria-label": "Confusion of the labels" },
      el("table", {},
        el("caption", {}, "Rows: the label of the film. Columns: the label that the model predicted."),
        el("thead", {}, el("tr", {}, el("td", {}), ...columns.map((label) => el("th", { scope: "col" }, label)))),
        el("tbody", {}, ...rows.map((row, index) => el("tr", {}, el("th", { scope: "row" }, taught[index] ?? ""),
          ...row.map((count, column) => el("td", { class: "num", "data-right": columns[column] === taught[index], "data-some": count > 0 }, String(count))))))));
  }

  #wrong(each) {
    const file = `${this.#page.name}/${each.film}`;
    return el("li", {}, el("button", { type: "button", class: "quiet-button", onclick: () => {
      if (!this.#page.examples.find(file)) this.#page.say(`${each.film} is not among the examples any more.`);
    } }, each.film), `: label ${each.label}, predicted ${each.predicted} (${percent(each.probability)})`);
  }
}

function replaceText(list, texts) {
  const key = JSON.stringify(texts);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...texts.map((text) => el("li", {}, text)));
}
