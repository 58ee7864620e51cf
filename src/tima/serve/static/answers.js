// The right column: each model's answer, and what an attack made of it.
import { attack, classify } from "./api.js";
import { stepChart, stepKeys } from "./charts.js";
import { byId, complain, debounce, el, percent, replace, say, swatch } from "./dom.js";
import { common, modelOf, onChange, state } from "./state.js";

const FEW = 6; // classes shown before "all"
let answers = null; // of /v1/classify
let attacked = null; // of /v1/attack, null once it no longer fits what is shown
let running = null;
let all = false;
const soon = debounce(() => look(), 60);

export function startAnswers() {
  const eps = byId("eps");
  const steps = byId("steps");
  const levels = () => {
    byId("eps-text").textContent = `${eps.value}/255`;
    eps.setAttribute("aria-valuetext", `${eps.value} of 255 grey levels`);
    byId("steps-text").textContent = steps.value;
  };
  eps.addEventListener("input", levels);
  steps.addEventListener("input", levels);
  levels();
  byId("attack-form").addEventListener("submit", (event) => {
    event.preventDefault();
    runAttack();
  });
  onChange((parts) => {
    if (parts.includes("limits")) {
      eps.max = Math.min(16, Math.round(state.limits.eps * 255));
      steps.max = state.limits.steps;
    }
    if (parts.includes("classes")) goals();
    if (["picture", "classes", "template", "chosen"].some((part) => parts.includes(part))) soon();
  });
  let width = innerWidth;
  addEventListener("resize", debounce(() => {
    if (innerWidth !== width) render();
    width = innerWidth;
  }, 150));
}

function goals() {
  const select = byId("goal");
  const kept = select.value;
  replace(
    select,
    el("option", { value: "" }, "away from its answer"),
    el("optgroup", { label: "away from" }, state.classes.map((name) => el("option", { value: `label:${name}` }, `away from ${name}`))),
    el("optgroup", { label: "to" }, state.classes.map((name) => el("option", { value: `target:${name}` }, `to ${name}`))),
  );
  select.value = kept;
  if (select.selectedIndex < 0) select.value = "";
}

function begin() {
  running?.abort();
  running = new AbortController();
  byId("answers").setAttribute("aria-busy", "true");
  return running;
}

function end(mine) {
  if (running !== mine) return;
  running = null;
  byId("answers").setAttribute("aria-busy", "false");
  byId("attack").disabled = false;
  byId("attack").textContent = "Attack";
}

async function look(afterProblem = false) {
  if (!state.picture || !state.chosen.length) return;
  const mine = begin();
  if (!afterProblem) complain(byId("problem"), null);
  attacked = null;
  try {
    answers = await classify({ image: state.picture.blob, ...common(), models: state.chosen }, mine.signal);
    render();
    say(answers.results.map((result) => `${result.title} answers ${result.answer}, ${percent(Math.max(...result.probabilities))}.`).join(" "));
  } catch (problem) {
    if (problem.name !== "AbortError") complain(byId("problem"), problem);
  } finally {
    end(mine);
  }
}

async function runAttack() {
  if (!state.picture) return;
  const due = soon.cancel() || running !== null; // answers are on their way; the attack brings its own
  const mine = begin();
  complain(byId("problem"), null);
  byId("attack").disabled = true;
  byId("attack").textContent = "Attacking…";
  say("The attack has begun.");
  const [kind, name] = [byId("goal").value.split(":", 1)[0], byId("goal").value.split(":").slice(1).join(":")];
  const goal = kind ? { [kind]: name } : {};
  try {
    attacked = await attack({ image: state.picture.blob, ...common(), models: state.chosen, eps: `${byId("eps").value}/255`, steps: byId("steps").value, ...goal }, mine.signal);
    answers = { classes: attacked.classes, results: attacked.results.map((result) => result.clean) }; // of this very picture
    render();
    say(attacked.results.map((result) => `${result.title}: ${verdict(result)}.`).join(" "));
  } catch (problem) {
    if (problem.name === "AbortError") return;
    complain(byId("problem"), problem);
    if (due) look(true);
  } finally {
    end(mine);
  }
}

function verdict(result) {
  const [before, after] = [result.clean.answer, result.adversarial.answer];
  return before === after ? `stays ${before}` : `${before} becomes ${after}`;
}

function render() {
  if (!answers) return;
  const peak = answers.classes.map((_, c) => Math.max(...answers.results.map((result) => result.probabilities[c])));
  if (attacked) for (const result of attacked.results) result.adversarial.probabilities.forEach((share, c) => (peak[c] = Math.max(peak[c], share)));
  const order = peak.map((_, c) => c).sort((a, b) => peak[b] - peak[a]);
  const cards = answers.results.map((result) => card(result, attacked?.results.find((other) => other.model === result.model), order));
  const more = order.length > FEW ? el("button", { type: "button", class: "quiet-button more", "aria-expanded": String(all), onclick: toggle }, all ? "Fewer classes" : `All ${order.length} classes`) : null;
  replace(byId("answers"), el("div", { class: "cards" }, cards), more);
  for (const place of byId("answers").querySelectorAll(".steps")) {
    const result = attacked.results.find((other) => other.model === place.dataset.model);
    place.append(stepChart(result.trace, result.label, result.adversarial.answer, Math.max(240, place.clientWidth)));
  }
}

function toggle() {
  all = !all;
  render();
  byId("answers").querySelector(".more").focus();
}

function card(result, hit, order) {
  const model = modelOf(result.model);
  const now = hit ? hit.adversarial : result;
  const share = Math.max(...now.probabilities);
  const moved = hit && hit.adversarial.answer !== hit.clean.answer;
  return el(
    "article",
    { class: `card answer ${hit ? "hit" : ""}`, "aria-labelledby": `m-${model.id}` },
    el("header", {}, swatch(model.series), el("h3", { id: `m-${model.id}` }, model.title), hit && el("span", { class: `pill ${moved ? "moved" : "held"}` }, moved ? "moved" : "held")),
    el("p", { class: "said" },
      moved && el("span", { class: "was" }, el("s", {}, hit.clean.answer), el("span", { "aria-hidden": "true" }, " → "), el("span", { class: "unseen" }, " became ")),
      el("b", {}, now.answer), " ", el("span", { class: "share" }, percent(share))),
    bars(result, hit, order, model.series),
    hit && pictures(hit),
    hit && el("figure", { class: "plot" }, el("figcaption", {}, `The answer over ${attacked.steps} steps`), el("div", { class: "steps", "data-model": model.id }), stepKeys(hit.trace, hit.label, hit.adversarial.answer), el("p", { class: "note" }, kept(hit))),
  );
}

function kept(hit) {
  const step = hit.trace.kept_step;
  const where = step === 0 ? "No step raised the loss" : `Step ${step} had the highest loss and was kept`;
  return `${where}. No pixel moved by more than ${hit.largest_change} of 255 levels.`;
}

function bars(result, hit, order, series) {
  const now = (hit ? hit.adversarial : result).probabilities;
  const top = now.indexOf(Math.max(...now));
  const rows = order.slice(0, all ? order.length : FEW).map((c) => {
    const before = result.probabilities[c];
    return el("li", { class: c === top ? "top" : "" },
      el("span", { class: "name", title: answers.classes[c] }, answers.classes[c]),
      el("span", { class: `track s${series % 7}`, "aria-hidden": "true" },
        el("span", { class: "fill", vars: { "--share": now[c] } }),
        hit && el("span", { class: "tick-mark", vars: { "--share": before } })),
      el("span", { class: "value" }, percent(now[c]), hit && el("span", { class: "unseen" }, `, ${percent(before)} before the attack`)));
  });
  const title = hit ? `Shares under attack at eps ${attacked.eps_text}` : "Shares";
  return el("div", {}, el("ol", { class: "bars", "aria-label": title }, rows), hit && el("p", { class: "note key" }, el("span", { class: "tick-key", "aria-hidden": "true" }), "before the attack"));
}

function pictures(hit) {
  const times = Math.round(1 / (2 * attacked.eps));
  const one = (key, caption, alt) => el("figure", {}, el("img", { src: `data:image/png;base64,${hit.images[key]}`, alt, class: "pixels" }), el("figcaption", {}, caption));
  return el("div", { class: "triple" },
    one("clean", "before", "The picture as the model sees it"),
    one("perturbation", `change ×${times}`, `What the attack adds, amplified ${times} times; grey is no change`),
    one("adversarial", "after", "The attacked picture"));
}
