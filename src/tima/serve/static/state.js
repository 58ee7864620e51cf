// What the person has chosen. Views listen for changes and ask for what they need.

export const state = {
  models: [], // of the server: id, title, about, series
  limits: {},
  samples: [],
  chosen: [], // ids
  classes: [],
  template: "a photo of a {c}.",
  picture: null, // { blob, name }
};

const listeners = [];

export function onChange(listener) {
  listeners.push(listener);
}

export function change(parts) {
  Object.assign(state, parts);
  for (const listener of listeners) listener(Object.keys(parts));
}

export const modelOf = (id) => state.models.find((model) => model.id === id);

// the original is grey and a circle, as in the reports; the others take the colours in turn
export function withSeries(models) {
  let next = 1;
  return models.map((model) => ({ ...model, series: model.id === "original" ? 0 : next++ }));
}

export const common = () => ({ classes: state.classes, templates: [state.template] });
