// Small line charts and a scatter plot, drawn for the width they get, with text that stays readable.
import { el, marker, percent, svg, tenths } from "./dom.js";

function frame(width, height, pad, top, step, alt) {
  const y = (value) => height - pad.bottom - ((height - pad.bottom - pad.top) * value) / top;
  const node = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": alt });
  for (let value = 0; value <= top + 1e-9; value += step) {
    node.append(
      svg("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: pad.left - 8, y: y(value) + 4, "text-anchor": "end" }, `${Math.round(100 * value)} %`),
    );
  }
  return { node, y };
}

const line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

const kindOf = (name, label, answer) => (name === label ? "label" : name === answer ? "taken" : "other");

// how one model's shares move over the steps of an attack
export function stepChart(trace, label, answer, width) {
  const rows = trace.probabilities;
  const last = rows.length - 1;
  const pad = { left: 48, right: 14, top: 8, bottom: 24 };
  const height = 168;
  const words = trace.classes.map((name, c) => `${name}: from ${percent(rows[0][c])} to ${percent(rows[trace.kept_step][c])}`);
  const { node, y } = frame(width, height, pad, 1, 0.5, `Shares over ${last} steps. ${words.join("; ")}.`);
  const x = (step) => pad.left + ((width - pad.left - pad.right) * step) / Math.max(1, last);
  for (const step of new Set([0, Math.round(last / 2), last])) {
    const text = step === last && last > 3 ? `step ${step}` : `${step}`;
    node.append(svg("text", { class: "tick", x: x(step), y: height - 6, "text-anchor": step === last ? "end" : "middle" }, text));
  }
  const kept = x(trace.kept_step);
  node.append(svg("line", { class: "kept", x1: kept, x2: kept, y1: pad.top, y2: height - pad.bottom }));
  const order = { other: 0, taken: 1, label: 2 }; // what matters is drawn last, on top
  const lines = trace.classes.map((name, c) => ({ c, kind: kindOf(name, label, answer) })).sort((a, b) => order[a.kind] - order[b.kind]);
  for (const { c, kind } of lines) node.append(svg("path", { class: `line ${kind}`, d: line(rows.map((row, step) => [x(step), y(row[c])])) }));
  return node;
}

// which line is which, as text that can wrap
export function stepKeys(trace, label, answer) {
  const key = (kind, text) => el("li", { class: kind }, svg("svg", { viewBox: "0 0 18 6", "aria-hidden": "true" }, svg("path", { class: `line ${kind}`, d: "M1 3H17" })), text);
  const others = trace.classes.filter((name) => kindOf(name, label, answer) === "other").length;
  return el("ul", { class: "keys" }, key("label", label), label !== answer && key("taken", answer), others > 0 && key("other", `${others} others`));
}

// accuracy against eps with 95 % bands
export function epsChart(chart, rows, runs, width) {
  const pad = { left: 48, right: 18, top: 12, bottom: 44 };
  const height = Math.round(Math.min(380, Math.max(250, width * 0.5)));
  const high = Math.max(0.05, ...rows.flatMap((row) => row.points.filter(Boolean).map((point) => point.high)), chart.chance ?? 0);
  const step = [0.02, 0.05, 0.1, 0.2].find((size) => high / size <= 4) ?? 0.25;
  const top = Math.min(1, step * Math.ceil(high / step));
  const levels = chart.norm === "l_inf" ? 255 : 1;
  const most = Math.max(...chart.eps) * levels || 1;
  const words = rows.map((row) => {
    const known = row.points.map((point, k) => point && `${chart.labels[k]} ${tenths(point.value)}`).filter(Boolean);
    return `${runs.get(row.run).title}: ${known.join(", ")}`;
  });
  const { node, y } = frame(width, height, pad, top, step, `Accuracy against eps. ${words.join(". ")}.`);
  const x = (eps) => pad.left + ((width - pad.left - pad.right) * eps * levels) / most;
  let before = -Infinity;
  for (const [k, eps] of chart.eps.entries()) {
    if (x(eps) - before < 26) continue;
    before = x(eps);
    const text = k === 0 ? "clean" : levels === 255 ? `${+(eps * 255).toPrecision(3)}` : chart.labels[k];
    node.append(svg("text", { class: "tick", x: x(eps), y: height - 24, "text-anchor": "middle" }, text));
  }
  const unit = levels === 255 ? "attack size eps, in 255ths of the pixel range" : `attack size eps, ${chart.norm}`;
  node.append(svg("text", { class: "tick", x: (pad.left + width - pad.right) / 2, y: height - 5, "text-anchor": "middle" }, unit));
  if (chart.chance !== null && chart.chance !== undefined) {
    node.append(
      svg("line", { class: "chance", x1: pad.left, x2: width - pad.right, y1: y(chart.chance), y2: y(chart.chance) }),
      svg("text", { class: "tick", x: width - pad.right, y: y(chart.chance) - 5, "text-anchor": "end" }, "chance"),
    );
  }
  const placed = rows.map((row) => ({
    series: runs.get(row.run).series % 7,
    points: row.points.map((point, k) => point && { ...point, x: x(chart.eps[k]), label: chart.labels[k] }).filter(Boolean),
  }));
  for (const { series, points } of placed) {
    const edge = [...points.map((p) => [p.x, y(p.high)]), ...points.toReversed().map((p) => [p.x, y(p.low)])];
    node.append(svg("path", { class: `band s${series}`, d: `${line(edge)}Z` }));
  }
  for (const { series, points } of placed) {
    node.append(svg("path", { class: `line s${series}`, d: line(points.map((p) => [p.x, y(p.value)])) }));
    for (const p of points) {
      const text = `${p.label}: ${tenths(p.value)} (95 % interval ${tenths(p.low)} to ${tenths(p.high)}, ${p.n} images)`;
      node.append(svg("g", {}, svg("title", {}, text), marker(series, p.x, y(p.value), 4.2)));
    }
  }
  return node;
}

// class texts in the plane; with two models of one plane, each text's way from the first to the second
export function textChart(found, series, width) {
  const height = Math.round(Math.min(560, Math.max(340, width * 0.66)));
  const pad = 26;
  const all = found.results.flatMap((result) => result.points);
  const span = (key) => [Math.min(...all.map((p) => p[key])), Math.max(...all.map((p) => p[key]))];
  const [[x0, x1], [y0, y1]] = [span("x"), span("y")];
  const scale = Math.min((width - 2 * pad) / (x1 - x0 || 1), (height - 2 * pad) / (y1 - y0 || 1)); // one scale: distances compare
  const at = (p) => [width / 2 + scale * (p.x - (x0 + x1) / 2), height / 2 - scale * (p.y - (y0 + y1) / 2)];
  const alt = `${found.classes.length} class texts of ${found.results.map((r) => r.title).join(" and ")} in two dimensions; the table below says which lie near each other.`;
  const node = svg("svg", { class: "chart texts", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": alt });
  const [first, second] = found.results;
  if (second && found.same_plane) {
    for (const [k, p] of first.points.entries()) {
      const [a, b] = [at(p), at(second.points[k])];
      node.append(svg("line", { class: "way", x1: a[0], y1: a[1], x2: b[0], y2: b[1] }));
    }
  }
  const taken = [];
  const dots = found.results.flatMap((result, m) => result.points.map((p) => ({ p, m, at: at(p) })));
  for (const { at: [x, y] } of dots) taken.push({ x: x - 6, y: y - 6, w: 12, h: 12 });
  for (const { p, m, at: [x, y] } of dots) {
    const lastModel = m === found.results.length - 1;
    node.append(svg("g", { class: lastModel ? "dot" : "dot before" }, svg("title", {}, `${p.name}, ${found.results[m].title}`), marker(series[m], x, y, 5)));
  }
  const named = dots.filter(({ m }) => m === found.results.length - 1);
  for (const { p, at: [x, y] } of named) {
    const w = widthOf(p.name) + 4;
    const spots = [[9, 4], [-w - 7, 4], [-w / 2, -10], [-w / 2, 19], [9, -8], [9, 16], [-w - 7, -8], [-w - 7, 16]];
    const free = spots.map(([dx, dy]) => ({ x: x + dx, y: y + dy - 11, w, h: 14 })).find(
      (box) => box.x > 0 && box.x + box.w < width && box.y > 0 && box.y + box.h < height && !taken.some((other) => meet(box, other)),
    );
    if (!free) continue; // the point has its title and its row in the table
    taken.push(free);
    node.append(svg("text", { class: "name", x: free.x + 2, y: free.y + 11 }, p.name));
  }
  return node;
}

const pen = document.createElement("canvas").getContext("2d");

// of a name in pixels, as `.texts .name` writes it
function widthOf(text) {
  pen.font = `13px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

const meet = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
