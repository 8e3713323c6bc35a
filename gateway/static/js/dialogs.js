// The two dialogs: the request as code, and the conversation as a file.

import { conversation, exchanges, isEmpty, state } from "./conversation.js";
import { textOf } from "./document.js";
import { copy, element } from "./dom.js";
import { asMarkdown, download, exportedName } from "./export.js";
import { t } from "./i18n.js";
import { showProblem } from "./notice.js";
import { fileOf } from "./records.js";
import { fresh, sourceOf } from "./requests.js";
import { SNIPPETS } from "./snippets.js";

// What is in the box; else what was asked last; else an example.
function showCode() {
  const complete = state.mode === "complete";
  const written = complete ? textOf(conversation()) : element("prompt").value;
  const last = exchanges().at(-1);
  const source = written || !last ? sourceOf(written || t(`${state.mode}Example1`)) : sourceOf(last.prompt, last);
  const { path, body } = fresh(source);
  if (!element("probabilities").checked) for (const name of ["logprobs", "top_logprobs"]) delete body[name];
  const language = document.querySelector("input[name=snippet]:checked").value;
  element("snippet").textContent = SNIPPETS[language]({ path, body });
}

let exported = null; // a conversation

export function showExport(one = conversation()) {
  exported = one;
  element("export-dialog").showModal();
}

function exportAs(extension, type, make) {
  if (isEmpty(exported)) showProblem(t("exportEmpty"));
  else download(exportedName(extension), type, make(exported));
  element("export-dialog").close();
}

// `settled()`: false where a setting has to be put right first.
export function listenForDialogs(settled) {
  const onClick = (id, action) => element(id).addEventListener("click", action);
  onClick("code", () => {
    if (!settled()) return;
    showCode();
    element("code-dialog").showModal();
  });
  onClick("copy-code", async () => {
    await copy(element("snippet").textContent);
    element("copy-code").textContent = t("copied");
    setTimeout(() => (element("copy-code").textContent = t("copy")), 1500);
  });
  onClick("export", () => showExport());
  onClick("export-markdown", () => exportAs("md", "text/markdown", asMarkdown));
  onClick("export-json", () => exportAs("json", "application/json", (one) => fileOf([one])));
  for (const input of document.querySelectorAll("input[name=snippet]")) input.addEventListener("change", showCode);
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
}
