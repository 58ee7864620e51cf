// Begins: theme, views by the address's hash, models, first sample.
import { getModels } from "./api.js";
import { startAnswers } from "./answers.js";
import { byId, complain } from "./dom.js";
import { pickSample, startPicture } from "./picture.js";
import { startRuns } from "./runs.js";
import { change, withSeries } from "./state.js";
import { startTexts } from "./texts.js";

const views = ["picture", "texts", "runs"];
const shown = {};

function show() {
  const asked = location.hash.slice(1);
  const view = views.includes(asked) ? asked : "picture";
  for (const name of views) byId(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`title-${view}`).textContent} · tima`;
  shown[view]?.();
}

function startTheme() {
  const button = byId("theme");
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const name = () => button.setAttribute("aria-label", dark() ? "Switch to light" : "Switch to dark");
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("tima-theme", root.dataset.theme); } catch { /* it holds until the page is left */ }
    name();
  });
  system.addEventListener("change", name);
  name();
}

async function start() {
  startTheme();
  shown.texts = startTexts();
  shown.runs = startRuns();
  startPicture();
  startAnswers();
  addEventListener("hashchange", () => {
    if (location.hash === "#main") return;
    show();
    scrollTo(0, 0);
  });
  show();
  try {
    const { models, limits, samples } = await getModels();
    change({ models: withSeries(models), limits, samples, chosen: models.slice(0, Math.min(limits.models, 3)).map((m) => m.id) });
    if (samples.length) await pickSample(samples[0]);
    show();
  } catch (problem) {
    complain(byId("problem"), problem);
  }
  document.documentElement.dataset.ready = "yes";
}

start();
