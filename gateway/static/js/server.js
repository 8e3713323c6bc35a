// Reaching the server: what it can do, which models it has, and what to do where it says no.

import { isRunning } from "./answering.js";
import { ask, Problem } from "./api.js";
import { exchanges, state } from "./conversation.js";
import { element } from "./dom.js";
import { hideNotice, showProblem, waitOut } from "./notice.js";
import { openPanel } from "./panel.js";
import { refused, showParameters } from "./parameters.js";
import { loadSchema, setContextLength } from "./schema.js";
import { store, stored } from "./storage.js";

let models = [];
export let isConnected = false; // once: nothing can be asked before the server has described itself
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

// False when the server was waited for; what somebody has to do something about is shown.
async function connected(signal) {
  try {
    await loadSchema(signal);
    showParameters();
    await loadModels(signal);
    isConnected = true;
    element("code").disabled = false;
    element("send").disabled = isRunning();
    hideNotice();
  } catch (error) {
    signal.throwIfAborted(); // whatever an old key met
    if (!(error instanceof Problem)) throw error;
    if (error.waits) await waitOut(error, signal);
    else await tell(error, connect);
    return !error.waits;
  }
  return true;
}

async function loadModels(signal) {
  const [about, list] = await Promise.all(["/v1", "/v1/models"].map((path) => ask(path, null, signal)));
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
  // A model that was not made for conversations continues texts; whoever wants to chat with it, or does so already, still can.
  if (another && model?.chat_template === false && !exchanges().length) document.querySelector("input[value=complete]").click();
}

// The one that a conversation was had with, if it is still served.
export function chooseModel(name) {
  if (!models.length) state.model = name; // the list comes soon
  if (!models.some(({ id }) => id === name)) return;
  element("model").value = name;
  showModel();
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
