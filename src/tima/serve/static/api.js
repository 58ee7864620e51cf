// The HTTP API as functions. Every failure is thrown as a problem with `detail`, `where` and `do`.

export class Problem extends Error {
  constructor(body) {
    super(body.detail);
    Object.assign(this, body);
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function ask(path, options = {}, tries = 3) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ status: 0, detail: "The server cannot be reached.", where: path, do: "Look whether it is still running." });
  }
  if (answer.status === 503 && tries > 1) {
    await pause(1000 * Math.min(Number(answer.headers.get("Retry-After")) || 1, 10));
    options.signal?.throwIfAborted();
    return ask(path, options, tries - 1);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  throw new Problem({ status: answer.status, detail: `The server answered ${answer.status}.`, where: path, do: "Try it again.", ...body });
}

function form(fields) {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === undefined) continue;
    if (value instanceof Blob) data.append(name, value, "picture");
    else data.append(name, Array.isArray(value) ? value.map((part) => `${part}\n`).join("") : value); // lines keep their commas
  }
  return data;
}

const post = (path) => async (fields, signal) => (await ask(path, { method: "POST", body: form(fields), signal })).json();

export const getModels = async () => (await ask("/v1/models")).json();
export const getRuns = async () => (await ask("/v1/runs")).json();
export const getBlob = async (path) => (await ask(path)).blob();
export const classify = post("/v1/classify");
export const attack = post("/v1/attack");
export const lookAtTexts = post("/v1/texts");
