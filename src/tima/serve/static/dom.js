// Elements made node by node: what people typed is text and stays text. Styles go through the CSSOM, which the CSP allows.

export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, part] of Object.entries(value)) node.style.setProperty(key, part);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

// one decimal below 10 %, so that small shares do not all read 0
export function percent(share) {
  const value = 100 * share;
  return `${value >= 9.95 || value < 0.05 ? Math.round(value) : value.toFixed(1)}\u00a0%`;
}

// as the reports write accuracies
export const tenths = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

export const signed = (value, digits = 2) => `${value < 0 ? "\u2212" : ""}${Math.abs(value).toFixed(digits)}`;

// what a screen reader hears without losing its place
export function say(text) {
  byId("status").textContent = text;
}

export function complain(where, problem) {
  const parts = problem ? [el("strong", {}, problem.detail), " ", problem.do ?? ""] : [];
  replace(where, ...parts);
  where.hidden = !problem;
}

export const swatch = (series) =>
  svg("svg", { class: "swatch", viewBox: "0 0 14 14", "aria-hidden": "true" }, marker(series, 7, 7, 4.6));

// never colour alone: each series has a shape of its own
export function marker(series, x, y, r) {
  const kind = series % 7;
  const common = { class: `s${kind}` };
  const path = (d) => svg("path", { ...common, d });
  if (kind === 0) return svg("circle", { ...common, cx: x, cy: y, r });
  if (kind === 1) return svg("rect", { ...common, x: x - r * 0.88, y: y - r * 0.88, width: r * 1.76, height: r * 1.76 });
  if (kind === 2) return path(`M${x} ${y - r * 1.1}L${x + r * 1.1} ${y + r * 0.9}L${x - r * 1.1} ${y + r * 0.9}Z`);
  if (kind === 3) return path(`M${x} ${y - r * 1.2}L${x + r * 1.2} ${y}L${x} ${y + r * 1.2}L${x - r * 1.2} ${y}Z`);
  if (kind === 4) return path(`M${x} ${y + r * 1.1}L${x + r * 1.1} ${y - r * 0.9}L${x - r * 1.1} ${y - r * 0.9}Z`);
  const t = r * 0.42;
  const plus = `M${x - t} ${y - r}h${2 * t}v${r - t}h${r - t}v${2 * t}h${t - r}v${r - t}h${-2 * t}v${t - r}h${t - r}v${-2 * t}h${r - t}Z`;
  if (kind === 5) return path(plus);
  return svg("path", { ...common, d: plus, transform: `rotate(45 ${x} ${y})` });
}

// `soon()` does the work after a pause without further calls, `soon.now()` at once if it is due, `soon.cancel()` not at all
export function debounce(work, wait) {
  let timer = null;
  const cancel = () => {
    const due = timer !== null;
    clearTimeout(timer);
    timer = null;
    return due;
  };
  const soon = () => {
    cancel();
    timer = setTimeout(() => { timer = null; work(); }, wait);
  };
  return Object.assign(soon, { cancel, now: () => { if (cancel()) work(); } });
}
