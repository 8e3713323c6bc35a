// Reaching the server: what it can do, which models it has, and what to do where it says no.

import { ask, Problem } from "./api.js";
import { state } from "./conversation.js";
import { element } from "./dom.js";
import { hideNotice, showProblem, waitOut } from "./notice.js";
import { openPanel } from "./panel.js";
import { refused, showParameters } from "./parameters.js";
import { loadSchema, setContextLength } from "./schema.js";
import { store, stored } from "./storage.js";

let models = [];
let connecting = null; // what ends the attempt to reach the server

// At the start, and with another key: until the server answers.
export async function connect() {
  connecting?.abort();
  connecting = new AbortController();
  const { signal } = connecting;
  try {
    while (!(await connected(signal)));
  } catch (error) {
    if (error.name !== "AbortError") throw error; // another key has been entered meanwhile
  }
}

// False when the server was waited for; what somebody has to do something about is told.
async function connected(signal) {
  try {
    await loadSchema();
    showParameters();
    await loadModels();
    hideNotice();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.waits) await waitOut(error, signal);
    else await tell(error, connect);
    return !error.waits;
  }
  return true;
}

async function loadModels() {
  const [about, list] = await Promise.all([ask("/v1"), ask("/v1/models")]);
  models = list.data;
  const wanted = [state.model, stored("model"), about.default_model, models[0]?.id].find((name) =>
    models.some(({ id }) => id === name),
  );
  element("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  element("model").value = wanted ?? "";
  showModel();
}

function showModel() {
  const name = element("model").value;
  const model = models.find(({ id }) => id === name);
  const another = state.model !== name;
  state.model = name;
  setContextLength(model?.context_length ?? Infinity);
  showParameters();
  // A model that was not made for conversations continues texts; whoever wants to chat with it still can.
  if (another && model?.chat_template === false) document.querySelector("input[value=complete]").click();
}

export function listenForModels() {
  element("model").addEventListener("change", () => {
    store("model", element("model").value);
    showModel();
  });
}

// A problem that somebody has to do something about: says what, leads there, and offers to try again.
export async function tell(problem, again) {
  if (problem.act === "models") await loadModels().catch(() => {}); // what is wrong has been said
  showProblem(problem.message, again);
  if (problem.act === "key") openPanel(element("key"));
  if (problem.act === "models") element("model").focus();
  const input = problem.act === "field" && refused(problem.param);
  if (input) openPanel(input);
}
