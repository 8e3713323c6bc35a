// Conversations as files: Markdown to read, JSON with every token and its probability, which can be imported again.

import { currentVersion } from "./conversation.js";
import { textOf } from "./document.js";
import { make } from "./dom.js";
import { t } from "./i18n.js";

export function asMarkdown(one) {
  const { mode, model, system, exchanges } = one;
  if (mode === "complete") return textOf(one);
  const before = system.trim() ? [`**${t("system")}**\n\n${system.trim()}`] : [];
  const parts = exchanges.map((exchange) => {
    const samples = currentVersion(exchange)?.samples ?? [];
    const answers = samples.map(
      (sample, index) => `**${samples.length > 1 ? t("answer", { number: index + 1 }) : t("assistant")}**\n\n${sample.text}`,
    );
    return [`**${t("you")}**\n\n${exchange.prompt}`, ...answers].join("\n\n");
  });
  return `# Tidegate · ${model}\n\n${[...before, ...parts].join("\n\n---\n\n")}\n`;
}

export const exportedName = (extension) =>
  `tidegate-${new Date().toISOString().slice(0, 16).replaceAll(":", "")}.${extension}`;

export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
