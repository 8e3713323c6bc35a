// The conversation as a file: Markdown to read, JSON with every token and its probability.

import { currentVersion, exchanges, state } from "./conversation.js";
import { make } from "./dom.js";
import { t } from "./i18n.js";

export function asMarkdown() {
  const system = state.mode === "chat" && state.system.trim() ? [`**${t("system")}**\n\n${state.system.trim()}`] : [];
  const parts = exchanges().map((exchange) => {
    const samples = currentVersion(exchange)?.samples ?? [];
    if (state.mode === "complete")
      return samples.map((sample) => `> ${(exchange.prompt + sample.text).replaceAll("\n", "\n> ")}`).join("\n\n");
    const answers = samples.map(
      (sample, index) => `**${samples.length > 1 ? t("answer", { number: index + 1 }) : t("assistant")}**\n\n${sample.text}`,
    );
    return [`**${t("you")}**\n\n${exchange.prompt}`, ...answers].join("\n\n");
  });
  return `# Tidegate · ${state.model}\n\n${[...system, ...parts].join("\n\n---\n\n")}\n`;
}

export function asJson() {
  const turns = exchanges().map(({ prompt, versions, current }) => ({
    prompt,
    current,
    versions: versions.map(({ source, samples, chosen }) => ({
      request: source,
      chosen,
      samples: samples.map(({ text, finish, segments }) => ({
        text,
        finish_reason: finish,
        tokens: segments.list.flatMap((segment) => segment.tokens),
      })),
    })),
  }));
  const { mode, model, system } = state;
  return JSON.stringify({ format: "tidegate-conversation", mode, model, system, exchanges: turns }, null, 1);
}

export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
