// Stored runs: accuracy against eps, the same as a table, and the reports.
import { getRuns } from "./api.js";
import { epsChart } from "./charts.js";
import { byId, complain, debounce, el, replace, swatch, tenths } from "./dom.js";

let found = null;
let runs = new Map();
const hidden = new Set();

export function startRuns() {
  byId("protocol").addEventListener("change", () => { blocks(); draw(); });
  byId("data").addEventListener("change", draw);
  addEventListener("resize", debounce(draw, 150));
  return look;
}

async function look() {
  complain(byId("run-problem"), null);
  try {
    const first = !found;
    found = await getRuns();
    let next = 1;
    const plain = found.runs.find((run) => !run.trained);
    runs = new Map(found.runs.map((run) => [run.id, { ...run, series: run === plain ? 0 : next++ }]));
    byId("run-card").hidden = found.charts.length === 0;
    if (first) {
      replace(byId("protocol"), found.charts.map((chart, k) => el("option", { value: k }, `${chart.protocol}: ${chart.attack}`)));
      blocks();
    }
    draw();
    list();
    if (!found.runs.length) complain(byId("run-problem"), { detail: "No runs are shown.", do: "Make some with `tima demo` or `tima evaluate`, then start the server with --runs FOLDER." });
  } catch (problem) {
    complain(byId("run-problem"), problem);
  }
}

const chart = () => found.charts[Number(byId("protocol").value)];

function blocks() {
  replace(byId("data"), (chart()?.blocks ?? []).map((block, k) => el("option", { value: k }, block.title)));
}

function draw() {
  if (!found?.charts.length || byId("view-runs").hidden) return;
  const block = chart().blocks[Number(byId("data").value)];
  const rows = block.rows.filter((row) => !hidden.has(row.run));
  const place = byId("run-chart");
  if (rows.length) replace(place, epsChart({ ...chart(), chance: block.chance }, rows, runs, Math.max(280, place.clientWidth)));
  else replace(place, el("p", { class: "note" }, "No run is chosen below."));
  byId("run-caption").textContent = [block.about, ...block.warnings].join(". ");
  legend(block);
  replace(byId("run-table"), table(block));
}

function legend(block) {
  const focus = document.activeElement?.value;
  replace(byId("run-legend"), block.rows.map(({ run }) => {
    const { title, series } = runs.get(run);
    const box = el("input", { type: "checkbox", value: run, checked: !hidden.has(run) });
    box.addEventListener("change", () => { box.checked ? hidden.delete(run) : hidden.add(run); draw(); });
    return el("label", { class: "check" }, box, swatch(series), title);
  }));
  byId("run-legend").querySelector(`input[value="${CSS.escape(focus ?? "")}"]`)?.focus();
}

function table(block) {
  const { labels, protocol } = chart();
  const cell = (point) => (point ? el("td", { class: "num" }, tenths(point.value), el("small", {}, `${tenths(point.low).replace("\u00a0%", "")}–${tenths(point.high)}`)) : el("td", { class: "num" }, "missing"));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Accuracy as a table" },
    el("table", { class: "plain" },
      el("caption", { class: "unseen" }, `Accuracy on ${block.title} under ${protocol}, with 95 % intervals`),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "run"), labels.map((label) => el("th", { scope: "col", class: "num" }, label)))),
      el("tbody", {}, block.rows.map((row) => el("tr", {}, el("th", { scope: "row" }, swatch(runs.get(row.run).series), " ", runs.get(row.run).title), row.points.map(cell))))));
}

function list() {
  const entry = (id, title, about, report, series) =>
    el("li", { class: "card" }, series === null ? null : swatch(series), el("div", { class: "grow" }, el("b", {}, title), el("p", { class: "note" }, about)),
      report === "ready" ? el("a", { class: "button", href: `/v1/runs/${id}/report`, "aria-label": `Report of ${title}` }, "Report") : el("span", { class: "note" }, `report ${report}`));
  const each = [...runs.values()];
  const together = each.length > 1 ? [entry("all", "All runs together", `${each.length} runs in one page`, each.some((run) => run.report === "ready") ? "ready" : "being made", null)] : [];
  replace(byId("run-list"), together, each.map((run) => entry(run.id, run.title, [run.about, run.data_sets.length ? `judged on ${run.data_sets.join(", ")}` : "not judged yet"].join("; "), run.report, run.series)));
  if (each.some((run) => run.report === "being made") && !byId("view-runs").hidden) setTimeout(() => byId("view-runs").hidden || look(), 4000);
}
