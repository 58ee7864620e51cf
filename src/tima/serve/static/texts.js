// Class texts of two models in the plane, and how close together they stand.
import { lookAtTexts } from "./api.js";
import { textChart } from "./charts.js";
import { byId, complain, debounce, el, replace, say, signed, swatch } from "./dom.js";
import { common, modelOf, onChange, state } from "./state.js";

let found = null;
let fresh = false; // whether `found` is of the present classes
let running = null;

export function startTexts() {
  onChange((parts) => {
    if (parts.includes("models")) options();
    if (parts.includes("classes") || parts.includes("template")) fresh = false;
  });
  for (const id of ["text-first", "text-second"]) byId(id).addEventListener("change", () => { fresh = false; look(); });
  addEventListener("resize", debounce(draw, 150));
  return look;
}

function options() {
  const make = () => state.models.map((model) => el("option", { value: model.id }, model.title));
  replace(byId("text-first"), make());
  replace(byId("text-second"), make());
  byId("text-second").selectedIndex = state.models.length - 1;
}

async function look() {
  if (!state.classes.length || !state.models.length) return;
  if (fresh) return draw();
  running?.abort();
  const mine = (running = new AbortController());
  complain(byId("text-problem"), null);
  const models = [...new Set([byId("text-first").value, byId("text-second").value])];
  try {
    found = await lookAtTexts({ ...common(), models }, mine.signal);
    fresh = true;
    draw();
    say(found.results.map((r) => `${r.title}: mean cosine ${number(r.mean_cosine)}, energy ${number(r.energy, 3)}.`).join(" "));
  } catch (problem) {
    if (problem.name !== "AbortError") complain(byId("text-problem"), problem);
  }
}

const number = (value, digits) => (value === null ? "none" : signed(value, digits));

function draw() {
  if (!found || byId("view-texts").hidden) return;
  const [first, second] = found.results;
  const series = found.results.map((result) => modelOf(result.model).series);
  const tile = (title, key, digits, about) =>
    el("div", { class: "tile" }, el("h3", {}, title), el("p", { class: "figures" }, found.results.map((r, m) => el("span", {}, swatch(series[m]), el("span", { class: "unseen" }, `${r.title}: `), number(r[key], digits)))), el("p", { class: "note" }, about));
  replace(
    byId("text-numbers"),
    el("ul", { class: "legend", "aria-label": "Models" }, found.results.map((r, m) => el("li", {}, swatch(series[m]), r.title))),
    tile("Mean cosine of all pairs", "mean_cosine", 2, "1 is the same direction, 0 is a right angle"),
    tile("Hyperspherical energy", "energy", 3, "mean of 1 / (1 + d²); small when the texts are far apart"),
  );
  const place = byId("text-chart");
  replace(place, textChart(found, series, Math.max(280, place.clientWidth)));
  const share = `${Math.round(100 * found.explained)} % of the variance`;
  byId("text-caption").textContent = !second
    ? `The two main axes of the class texts, which show ${share}.`
    : found.same_plane
      ? `Both models in one plane, which shows ${share}. A line leads from each text of ${first.title} to the same text of ${second.title}.`
      : `Each model in its own plane, turned onto the first; they show ${share}. Only distances within one model compare.`;
  replace(byId("text-table"), table());
}

function table() {
  const heads = found.results.flatMap((r) => [el("th", { scope: "col" }, `nearest in ${r.title}`), el("th", { scope: "col", class: "num" }, "cosine")]);
  const rows = found.classes.map((name, c) =>
    el("tr", {}, el("th", { scope: "row" }, name), found.results.map((r) => [el("td", {}, r.points[c].nearest ?? "none"), el("td", { class: "num" }, number(r.points[c].cosine))])),
  );
  return el("details", {}, el("summary", {}, "As a table: the nearest other text of each class"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Nearest texts" }, el("table", { class: "plain" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "class"), heads)), el("tbody", {}, rows))));
}
