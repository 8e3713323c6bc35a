// The page: puts its parts together, and says what happens when somebody does something.

import { Problem } from "./api.js";
import { isRunning, run, stop } from "./answering.js";
import { setUpChat, showChanged, showConversation, showMore } from "./chat.js";
import { addExchange, addVersion, branched, conversation, dropEmpty, exchanges, forgetAfter, newSample, state } from "./conversation.js";
import { listenForDialogs, showExport } from "./dialogs.js";
import { addGeneration, edit, undo } from "./document.js";
import { announce, element } from "./dom.js";
import { setUpDrawer, showDrawer } from "./drawer.js";
import { localize, t } from "./i18n.js";
import { generates, sends } from "./keys.js";
import { open, rememberOpen, saveSoon, setUpLibrary, startNew, whole } from "./library.js";
import { hideNotice, showProblem } from "./notice.js";
import { listenForPanel, openPanel, uncover } from "./panel.js";
import { firstWrong, setUpParameters, showParameters } from "./parameters.js";
import { setUpPreferences, showSendKey } from "./preferences.js";
import { showPresets } from "./presets.js";
import { answersOf, sourceOf } from "./requests.js";
import { chooseModel, connect, isConnected, listenForModels, tell } from "./server.js";
import { store, stored } from "./storage.js";
import { watchList } from "./tokens.js";

const END_TOKEN = /^(<\|[^|]+\|>|<\/?s>|<(eos|end_of_turn)>)$/; // chosen as an alternative, it ends the answer

// --- answers

let writing = Promise.resolve(); // the last answer

function write(exchange, version) {
  writing = written(exchange, version);
  return writing;
}

async function written(exchange, version) {
  const whose = conversation();
  Object.assign(whose, { updated: Date.now(), model: state.model, system: state.system });
  const save = () => saveSoon(whose);
  save();
  uncover();
  showConversation({ toEnd: true });
  showRunning(true);
  announce(t("writing"));
  try {
    const piece = (sample) => {
      showMore(sample);
      save();
    };
    await run(version, piece).finally(() => showEnd(exchange, version));
    const { finish, text } = version.samples[version.chosen];
    announce(finish === "stopped" ? t("stoppedAnnounced") : t("written", { text }));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    await tell(error, () => retry(error, exchange, version));
  } finally {
    save();
    showRunning(isRunning()); // another may have begun while a problem was shown
  }
}

function showEnd(exchange, version) {
  dropEmpty(exchange, version);
  showMore(version.samples[0]); // its figures are complete only now
  if (exchange.versions.includes(version)) showChanged();
  else showConversation({ toEnd: true });
}

// With the settings of now where nothing was written yet, else where it ended.
function retry({ act }, exchange, version) {
  if (!exchanges().includes(exchange) || !ready()) return; // it may have been cleared meanwhile
  const at = exchange.versions.indexOf(version);
  if (at >= 0) {
    for (const sample of version.samples) if (sample.finish === "broken") sample.finish = null;
    if (act === "models") version.source = { ...version.source, model: state.model };
    exchange.current = at;
    write(exchange, version);
  } else {
    start(exchange, sourceOf(exchange.prompt, exchange));
  }
}

function start(exchange, source) {
  const samples = Array.from({ length: answersOf(source) }, newSample);
  return write(exchange, addVersion(exchange, source, samples));
}

// False where a setting has to be put right first.
function settled() {
  const wrong = firstWrong();
  if (wrong) openPanel(wrong);
  return !wrong;
}

const ready = () => settled() && isConnected && !isRunning();

// What is typed into.
const entry = () => element(state.mode === "complete" ? "document" : "prompt");

// The document goes on, from its end or from another position.
function generate(position = entry().value.length) {
  if (!entry().value.trim() || !ready()) return;
  const exchange = addGeneration(position);
  start(exchange, sourceOf(exchange.prompt));
}

function ask(prompt) {
  if (!prompt.trim() || !ready()) return false;
  if (state.mode === "complete") {
    edit(prompt);
    showConversation();
    generate();
    return true;
  }
  const source = sourceOf(prompt); // before the exchange is a part of what was said
  start(addExchange(prompt), source);
  return true;
}

function send() {
  if (state.mode === "complete") return generate();
  if (ask(element("prompt").value)) element("prompt").value = "";
}

// --- conversations

// An answer under way ends here, and stays with its conversation.
async function leave() {
  stop();
  await writing.catch(() => {}); // it has been shown, or thrown where it belongs
  hideNotice();
}

async function begin() {
  await leave();
  startNew();
  showConversation();
  showDrawer();
  entry().focus();
}

function showOpened({ mode, model, system, exchanges: { length } }) {
  document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
  if (length) {
    element("system").value = state.system = system;
    chooseModel(model);
  }
  showMode();
}

// --- exchanges

setUpChat({
  changed: () => saveSoon(),
  generate,
  undo() {
    undo();
    saveSoon();
    showConversation({ toEnd: true });
    entry().focus();
  },
  example: ask,
  edit(exchange, prompt) {
    if (!ready()) return;
    forgetAfter(exchange);
    Object.assign(exchange, { prompt, versions: [], current: -1 }); // another question: the old answers are none to it
    start(exchange, sourceOf(prompt, exchange));
  },
  regenerate(exchange) {
    if (!ready()) return;
    forgetAfter(exchange);
    start(exchange, sourceOf(exchange.prompt, exchange));
  },
  goOn(version, sample) {
    if (!ready()) return;
    Object.assign(sample, { finish: null, spent: 0 });
    write(exchanges().at(-1), version);
  },
  branch(exchange, version, sample, index, tokens, text) {
    if (!ready()) return;
    forgetAfter(exchange);
    const ends = END_TOKEN.test(text);
    const other = branched(sample, index, ends ? "" : text, ends ? [] : tokens);
    if (ends) other.finish = "stop";
    const said = state.mode === "complete" ? { prompt: exchange.prompt } : version.source.said; // it may have been edited since
    write(exchange, addVersion(exchange, { ...version.source, said }, [other]));
  },
});

function showRunning(running) {
  const focused = document.activeElement;
  element("stop").hidden = !running;
  element("send").hidden = element("send").disabled = running;
  const lost = focused === element("stop") || focused === document.body;
  if (!running && lost && matchMedia("(hover: hover)").matches) entry().focus(); // else a phone shows its keyboard
}

// --- mode, words, colours

function showMode() {
  state.mode = document.querySelector("input[name=mode]:checked").value;
  const hint = `${state.mode}Hint`;
  document.body.dataset.mode = state.mode;
  showSendKey();
  element("prompt").placeholder = t(hint);
  element("prompt").setAttribute("aria-label", t(hint));
  element("system-group").hidden = state.mode !== "chat";
  showParameters();
  showConversation({ toEnd: true });
  rememberOpen();
}

function showEverything() {
  localize();
  showPresets();
  showMode();
}

// --- listening

const on = (id, event, action) => element(id).addEventListener(event, action);

on("composer", "submit", (event) => {
  event.preventDefault();
  send();
});
on("prompt", "keydown", (event) => {
  if (sends(event)) {
    event.preventDefault();
    send();
  }
});
on("conversation", "keydown", (event) => {
  if (event.target.id !== "document" || !generates(event)) return;
  event.preventDefault();
  generate();
});
on("stop", "click", stop);
on("clear", "click", begin);
on("probabilities", "change", () => {
  store("probabilities", element("probabilities").checked);
  showConversation();
});
on("controls", "submit", (event) => event.preventDefault());
on("system", "input", () => {
  state.system = element("system").value;
});
for (const input of document.querySelectorAll("input[name=mode]")) {
  input.addEventListener("change", () => {
    stop();
    hideNotice();
    showMode();
  });
}
listenForPanel();
listenForModels();
listenForDialogs(settled);
watchList();
setUpParameters(showPresets);

state.system = element("system").value; // what the browser has put back there
element("probabilities").checked = stored("probabilities") ?? false;
setUpPreferences({ showEverything, connect });
await setUpLibrary({
  showChange: showDrawer,
  showOpen: showOpened,
  showFailure: ({ message }) => showProblem(t("notSaved", { message })),
});
localize();
showOpened(conversation());
showEverything();
setUpDrawer({
  open: async (id) => {
    await leave();
    await open(id);
  },
  startNew: begin,
  exportOne: async (id) => (await whole([id])).forEach(showExport),
});
await connect();
if (!isRunning()) showConversation({ toEnd: true }); // why an answer ended depends on the server's limits
