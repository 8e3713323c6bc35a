// The request of the moment as code to paste. Python uses OpenAI's client; curl and JavaScript need nothing.

import { BASE } from "./api.js";

const KEY = "TIDEGATE_API_KEY";
// What OpenAI's client has arguments for; all else goes into its extra_body.
const OPENAI = [
  "model",
  "messages",
  "prompt",
  "max_tokens",
  "temperature",
  "top_p",
  "n",
  "presence_penalty",
  "frequency_penalty",
  "logit_bias",
  "seed",
  "stop",
  "stream",
  "stream_options",
  "logprobs",
  "top_logprobs",
  "response_format",
];

export const SNIPPETS = { curl, python, javascript };

function curl({ path, body }) {
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${BASE}${path} \\\n  -H "Content-Type: application/json" \\\n  -H "Authorization: Bearer $${KEY}" \\\n  -d '${data}'\n`;
}

const literal = (value, indent) => {
  const inner = `${indent}    `;
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map((item) => literal(item, indent)).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const items = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
  return items.join("").length < 90 ? `{${items.join(", ")}}` : `{\n${inner}${items.join(`,\n${inner}`)},\n${indent}}`;
};

function python({ path, body }) {
  const chat = "messages" in body;
  const known = Object.entries(body).filter(([name]) => OPENAI.includes(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.includes(name)));
  const all = Object.keys(extra).length ? [...known, ["extra_body", extra]] : known;
  return `import os

from openai import OpenAI  # pip install openai

client = OpenAI(base_url="${BASE}/v1", api_key=os.environ["${KEY}"])
chunks = client.${chat ? "chat.completions" : "completions"}.create(
${all.map(([name, value]) => `    ${name}=${literal(value, "    ")},`).join("\n")}
)
for chunk in chunks:
    for choice in chunk.choices:
        print(${chat ? 'choice.delta.content or ""' : "choice.text"}, end="", flush=True)
print()
`;
}

function javascript({ path, body }) {
  const piece = "messages" in body ? 'choice.delta.content ?? ""' : "choice.text";
  return `// Node 18 or newer, as request.mjs. In a browser: the key itself instead of process.env.${KEY}.
const response = await fetch("${BASE}${path}", {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: \`Bearer \${process.env.${KEY}}\` },
  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),
});
if (!response.ok) throw new Error(await response.text());
let text = "";
let buffer = "";
for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
  const events = (buffer + part).split("\\n\\n");
  buffer = events.pop();
  for (const event of events) {
    if (!event.startsWith("data: {")) continue;
    for (const choice of JSON.parse(event.slice(6)).choices ?? []) text += ${piece};
  }
}
console.log(text);
`;
}
