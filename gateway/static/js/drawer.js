// The drawer at the left: all conversations that are kept, the newest first, and what can be done with them.

import { conversation } from "./conversation.js";
import { announce, element, make } from "./dom.js";
import { download, exportedName } from "./export.js";
import { language, t } from "./i18n.js";
import * as library from "./library.js";
import { showProblem } from "./notice.js";
import { fileOf } from "./records.js";
import { store, stored } from "./storage.js";

const BESIDE = matchMedia("(min-width: 75rem)"); // wide enough to stay open beside the conversation
const DAY = 86_400_000; // ms
const AGES = [["today", 0], ["yesterday", 1], ["week", 7], ["month", 30], ["older", Infinity]]; // up to so many days

let does = {}; // open, startNew, exportOne: what main.js does when they are asked for
let busy = null; // {id, what}: the entry that is renamed, or asked about
let drawn = ""; // what the list was drawn from

const isOpen = () => document.body.classList.contains("drawer-open");

export async function showDrawer() {
  if (!isOpen()) return;
  const filter = element("drawer-filter").value.trim().toLowerCase();
  const all = await library.list();
  const now = JSON.stringify([all, filter, busy, conversation().id, language]);
  if (now === drawn) return; // the focus stays where it is, and what is typed
  drawn = now;
  const found = all.filter(({ label }) => label.toLowerCase().includes(filter));
  const groups = AGES.map(([name, days], index) => {
    const from = index ? AGES[index - 1][1] : -Infinity;
    const entries = found.filter(({ updated }) => from < daysAgo(updated) && daysAgo(updated) <= days);
    return entries.length && make("section", {}, make("h3", {}, t(`age_${name}`)), make("ul", {}, ...entries.map(entry)));
  });
  const nothing = make("p", { className: "hint" }, t(all.length ? "noneFound" : "noneKept"));
  element("drawer-list").replaceChildren(...(found.length ? groups.filter(Boolean) : [nothing]));
  element("drawer-filter").hidden = all.length < 8 && !filter;
  element("export-all").disabled = !all.length;
  element("not-kept").hidden = library.isKept();
  element("drawer-list").querySelector("[data-focus]")?.focus();
}

function daysAgo(time) {
  return Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / DAY);
}

function entry(one) {
  const what = busy?.id === one.id && busy.what;
  const title = make(
    "button",
    {
      type: "button",
      className: "title",
      title: `${one.label}\n${new Date(one.updated).toLocaleString(language)}`,
      "aria-current": one.id === conversation().id ? "true" : null,
      onclick: () => choose(() => does.open(one.id)),
    },
    one.label || t("untitled"),
  );
  const more = make("button", {
    type: "button",
    className: "plain more",
    "aria-label": t("moreFor", { title: one.label }),
    "aria-expanded": String(Boolean(what)),
    onclick: () => turn(one, what ? null : "menu"),
  });
  more.append("⋯");
  const row = what === "rename" ? [nameField(one)] : [title, more];
  return make("li", { className: one.mode }, make("div", { className: "row" }, ...row), below(one, what));
}

const action = (word, onclick, more = {}) => make("button", { type: "button", className: "plain", onclick, ...more }, t(word));

function below(one, what) {
  const cancel = action("cancel", () => turn(one, null), { "data-focus": "" });
  const buttons = {
    menu: () => [
      action("rename", () => turn(one, "rename"), { "data-focus": "" }),
      action("export", () => does.exportOne(one.id)),
      action("delete", () => turn(one, "delete")),
    ],
    delete: () => [
      make("span", {}, t("deleteSure")),
      action("delete", () => library.remove(one.id), { className: "plain danger" }),
      cancel,
    ],
  }[what];
  return buttons ? make("div", { className: "row menu" }, ...buttons()) : null;
}

function turn({ id }, what) {
  busy = what && { id, what };
  showDrawer();
}

function nameField(one) {
  const field = make("input", { value: one.label, "aria-label": t("rename"), "data-focus": "", maxLength: 200 });
  const save = async () => {
    if (busy?.what !== "rename" || busy.id !== one.id) return; // the other way out was taken
    busy = null;
    if (field.value.trim() && field.value !== one.label) await library.rename(one.id, field.value.trim());
    showDrawer();
  };
  field.addEventListener("keydown", (event) => {
    if (event.isComposing || !["Enter", "Escape"].includes(event.key)) return;
    event.stopPropagation();
    event.preventDefault();
    if (event.key === "Enter") save();
    else turn(one, null);
  });
  field.addEventListener("blur", save);
  queueMicrotask(() => field.select());
  return field;
}

// On a small screen the drawer lies above the conversation that was chosen in it.
async function choose(action) {
  busy = null;
  if (!BESIDE.matches) closeDrawer();
  await action();
  showDrawer();
}

function openDrawer() {
  document.body.classList.add("drawer-open");
  element("drawer-toggle").setAttribute("aria-expanded", "true");
  if (BESIDE.matches) store("drawer", true);
  return showDrawer();
}

function closeDrawer() {
  const left = element("drawer").contains(document.activeElement);
  document.body.classList.remove("drawer-open");
  element("drawer-toggle").setAttribute("aria-expanded", "false");
  if (BESIDE.matches) store("drawer", false);
  if (left) element("drawer-toggle").focus();
}

async function importChosen({ target }) {
  const [file] = target.files;
  target.value = ""; // the same file may come again
  try {
    announce(t("imported", { count: await library.importFile(await file.text()) }));
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
    showProblem(t("importWrong", { name: file.name }));
  }
  showDrawer();
}

async function exportAll() {
  const all = await library.list();
  const found = await library.whole(all.map(({ id }) => id));
  download(exportedName("json"), "application/json", fileOf(found));
}

export function setUpDrawer(actions) {
  does = actions;
  const onClick = (id, action) => element(id).addEventListener("click", action);
  onClick("drawer-toggle", async () => {
    if (isOpen()) return closeDrawer();
    await openDrawer();
    element("drawer-new").focus();
  });
  onClick("drawer-close", closeDrawer);
  onClick("drawer-shade", closeDrawer);
  onClick("drawer-new", () => choose(does.startNew));
  onClick("export-all", exportAll);
  onClick("import", () => element("import-file").click());
  element("import-file").addEventListener("change", importChosen);
  element("drawer-filter").addEventListener("input", showDrawer);
  element("drawer").addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeDrawer();
  });
  if (BESIDE.matches && stored("drawer")) openDrawer();
}
