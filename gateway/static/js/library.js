// Keeps conversations: saves what changed soon after, opens them again, and agrees with other tabs about them.

import { isRunning } from "./answering.js";
import { conversation, isEmpty, newConversation, newId, openConversation, openConversations, state, titleOf } from "./conversation.js";
import { openDatabase } from "./database.js";
import { fromFile, packed, unpacked } from "./records.js";
import { inTab, storeInTab } from "./storage.js";

const SAVE_AFTER = 1000; // ms

let database = null;
let saving = Promise.resolve(); // one after the other
let timer = null;
const writer = newId(); // this page: what it saves never conflicts with what it saved
const changed = new Set(); // conversations
const beingSaved = new Set();
const savedTokens = new WeakMap(); // sample → how many segments and characters are saved
let showChange = () => {}; // the list is another one
let showOpen = () => {}; // another conversation, or another state of it, is open
let showFailure = () => {};
const others = new BroadcastChannel("tidegate"); // other tabs

export const isKept = () => database.isKept;

// --- saving

export function saveSoon(one = conversation()) {
  changed.add(one);
  timer ??= setTimeout(saveNow, SAVE_AFTER);
}

export function saveNow() {
  clearTimeout(timer);
  timer = null;
  rememberOpen();
  const waiting = [...changed].filter((one) => !isEmpty(one));
  changed.clear();
  waiting.forEach((one) => beingSaved.add(one));
  const saveAll = async () => {
    for (const one of waiting) await save(one);
  };
  saving = saving.then(saveAll).catch(showFailure).finally(() => waiting.forEach((one) => beingSaved.delete(one)));
  return saving;
}

async function save(one, by = writer) {
  const record = { ...packed(one), label: titleOf(one), writer: by };
  const revision = await database.save(record, newTokens(one));
  if (revision === null) {
    // Another tab has gone on with it, so this one's becomes a conversation of its own.
    for (const sample of samplesOf(one)) savedTokens.delete(sample);
    Object.assign(one, { id: newId(), revision: 0 });
    rememberOpen();
    return save(one);
  }
  one.revision = revision;
  tellOthers({ saved: one.id });
}

// A page that goes away cannot wait for the database: what is not saved is left to the page that this tab loads next.
function leaveUnsaved() {
  const conversations = [...new Set([...changed, ...beingSaved])].filter((one) => !isEmpty(one));
  storeInTab("unsaved", { writer, conversations: conversations.map((one) => packed(one, (sample) => sample.segments.list)) });
}

async function saveUnsaved() {
  const { writer: before, conversations = [] } = inTab("unsaved") ?? {};
  storeInTab("unsaved", {});
  for (const record of conversations) await save(unpacked(record), before);
}

const samplesOf = ({ exchanges }) => exchanges.flatMap(({ versions }) => versions.flatMap(({ samples }) => samples));

function newTokens(one) {
  return samplesOf(one).flatMap((sample) => {
    const length = `${sample.segments.list.length}:${sample.text.length}`;
    if (savedTokens.get(sample) === length) return [];
    savedTokens.set(sample, length);
    return [[sample.id, sample.segments.list]];
  });
}

function tellOthers(message) {
  others.postMessage(message);
  showChange();
}

export async function list() {
  await saveNow();
  return database.list();
}

// --- opening

// After a reload the tab has what it had; a new tab begins anew.
export function rememberOpen() {
  const ids = Object.fromEntries(openConversations().map(({ mode, id }) => [mode, id]));
  storeInTab("open", { mode: state.mode, ...ids });
}

async function read(id) {
  const found = await database.load(id);
  if (!found) return null;
  const one = unpacked(found.record, ({ id: sample }) => found.tokens.get(sample));
  for (const sample of samplesOf(one)) savedTokens.set(sample, `${sample.segments.list.length}:${sample.text.length}`);
  return one;
}

// Those in memory are ahead of the stored ones.
const find = async (id) => openConversations().find((one) => one.id === id) ?? (await read(id));

export async function open(id) {
  await saveNow();
  const one = await find(id);
  if (!one) return; // another tab has just deleted it
  openConversation(one);
  state.mode = one.mode;
  rememberOpen();
  showOpen(one);
}

export function startNew() {
  saveNow();
  openConversation(newConversation(state.mode));
  rememberOpen();
}

// --- what the list does

export async function rename(id, title) {
  const one = await find(id);
  if (!one) return;
  one.title = title;
  saveSoon(one);
  await saveNow();
}

export async function remove(id) {
  await saveNow();
  await database.remove(id);
  forget(id);
  tellOthers({ removed: id });
}

function forget(id) {
  for (const one of openConversations()) {
    if (one.id !== id) continue;
    openConversation(newConversation(one.mode));
    if (one.mode === state.mode) showOpen(conversation());
  }
  rememberOpen();
}

export async function whole(ids) {
  await saveNow();
  const found = await Promise.all(ids.map(find));
  return found.filter(Boolean);
}

// Returns how many there were. None replaces one that is here: where their state differs, both stay.
export async function importFile(text) {
  const read = fromFile(text);
  for (const one of read) {
    const here = await find(one.id);
    if (here?.updated === one.updated) continue;
    if (here) one.id = newId();
    await save(one);
  }
  return read.length;
}

// --- at the start

others.onmessage = async ({ data: { saved, removed } }) => {
  showChange();
  const id = saved ?? removed;
  const mine = openConversations().find((one) => one.id === id);
  if (!mine || isRunning() || changed.has(mine)) return; // in a conflict both are kept: see `save`
  if (removed) return forget(id);
  const theirs = await read(id);
  if (!theirs || theirs.revision <= mine.revision) return;
  openConversation(theirs);
  if (theirs.mode === state.mode) showOpen(theirs);
};

export async function setUpLibrary(show) {
  ({ showChange, showOpen, showFailure } = show);
  database = await openDatabase();
  const before = inTab("open") ?? {};
  await saveUnsaved().catch(showFailure);
  for (const mode of ["chat", "complete"]) {
    const one = before[mode] && (await read(before[mode]).catch(showFailure));
    if (one) openConversation(one);
  }
  state.mode = before.mode ?? state.mode;
  addEventListener("pagehide", leaveUnsaved);
  addEventListener("pageshow", ({ persisted }) => persisted && storeInTab("unsaved", {})); // the same page is back
}
