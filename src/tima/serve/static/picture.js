// The left column: picture, class names, prompt, models.
import { getBlob } from "./api.js";
import { byId, complain, debounce, el, replace, say, swatch } from "./dom.js";
import { change, onChange, state } from "./state.js";

const TAKEN = ["image/png", "image/jpeg", "image/webp"];
const SIDE = 2048; // of a picture that has to be made smaller before it is sent
let shownUrl = null;

export function startPicture() {
  byId("setup").open = matchMedia("(min-width: 821px)").matches; // on a phone the answers come first
  byId("file").addEventListener("change", (event) => take(event.target.files[0]));
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((item) => item.type.startsWith("image/"));
    if (file) take(file);
  });
  const stage = byId("stage");
  for (const kind of ["dragenter", "dragover"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.add("over");
    });
  }
  addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    take(event.dataTransfer?.files[0]);
  });
  const typed = debounce(() => change({ classes: lines(), template: byId("template").value.trim() || "{c}" }), 450);
  byId("classes").addEventListener("input", () => { note(); typed(); });
  byId("template").addEventListener("input", typed);
  for (const id of ["classes", "template"]) byId(id).addEventListener("change", typed.now); // done typing, perhaps to attack
  onChange((parts) => {
    if (parts.includes("models")) models();
    if (parts.includes("samples")) samples();
    if (parts.includes("picture")) preview();
    byId("setup-note").textContent = `${plural(state.classes.length, "name", "names")}, ${plural(state.chosen.length, "model", "models")}`;
  });
}

export async function pickSample(sample) {
  try {
    const blob = await getBlob(sample.url);
    byId("classes").value = sample.classes.join("\n");
    byId("template").value = sample.templates[0];
    for (const button of byId("samples").children) button.setAttribute("aria-pressed", String(button.dataset.id === sample.id));
    change({ picture: { blob, name: `sample, ${sample.label}` }, classes: lines(), template: sample.templates[0] });
    note();
  } catch (problem) {
    complain(byId("picture-problem"), problem);
  }
}

async function take(file) {
  if (!file) return;
  complain(byId("picture-problem"), null);
  try {
    const blob = TAKEN.includes(file.type) && file.size < state.limits.body_bytes * 0.9 ? file : await converted(file);
    for (const button of byId("samples").children) button.setAttribute("aria-pressed", "false");
    change({ picture: { blob, name: file.name || "pasted picture" } });
  } catch {
    complain(byId("picture-problem"), { detail: "This file is no picture that this browser can open.", do: "Take a PNG, JPEG or WebP file." });
  }
  byId("file").value = "";
}

// other formats that the browser knows, and files that are too large, become a JPEG of a size that models cannot tell from it
async function converted(file) {
  const image = await createImageBitmap(file);
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const canvas = el("canvas", { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed()), "image/jpeg", 0.95));
}

function preview() {
  if (shownUrl) URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(state.picture.blob);
  const image = byId("preview");
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 160);
  image.onerror = () => complain(byId("picture-problem"), { detail: "This file is damaged.", do: "Take another one." });
  image.src = shownUrl;
  image.alt = `The picture: ${state.picture.name}`;
  image.hidden = false;
  byId("stage-hint").hidden = true;
  say(`Picture taken: ${state.picture.name}.`);
}

const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;
const lines = () => byId("classes").value.split("\n").map((line) => line.trim()).filter(Boolean);

function note() {
  const found = lines();
  const most = state.limits.classes;
  byId("class-note").textContent = `${found.length} of at most ${most}`;
  byId("classes").setAttribute("aria-invalid", String(found.length === 0 || found.length > most));
}

function models() {
  const most = state.limits.models;
  const boxes = state.models.map((model) => {
    const box = el("input", { type: "checkbox", value: model.id, checked: state.chosen.includes(model.id) });
    box.addEventListener("change", () => {
      const chosen = [...byId("models").querySelectorAll("input:checked")].map((input) => input.value);
      if (chosen.length < 1 || chosen.length > most) {
        box.checked = !box.checked;
        say(`Between 1 and ${most} models can be chosen.`);
      } else change({ chosen });
    });
    return el("label", { class: "check" }, box, swatch(model.series), el("span", {}, el("b", {}, model.title), " ", el("span", { class: "note" }, model.about)));
  });
  replace(byId("models"), boxes);
}

function samples() {
  replace(
    byId("samples"),
    state.samples.map((sample) =>
      el("button", { type: "button", "data-id": sample.id, "aria-pressed": "false", onclick: () => pickSample(sample) }, el("img", { src: sample.url, alt: sample.label, width: 44, height: 44 })),
    ),
  );
}
