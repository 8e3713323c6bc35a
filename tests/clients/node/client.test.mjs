// OpenAI's and Anthropic's clients for Node against the gateway at BASE_URL with the key API_KEY. Run by tests/clients/test_openai_node.py.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

const installed = createRequire(`${process.env.CLIENT_DIRECTORY}/`);
const OpenAI = installed("openai");
const Anthropic = installed("@anthropic-ai/sdk");
const options = { baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 };
const client = new OpenAI(options);
const claude = new Anthropic({ ...options, baseURL: options.baseURL.replace(/\/v1$/, "") });
const model = "latest_checkpoint.pt";
const chat = { model, messages: [{ role: "user", content: "Name a city." }], max_tokens: 8, temperature: 0 };
const completion = { model, prompt: "The quick brown fox", max_tokens: 6, temperature: 0 };
const response = { model, input: "Name a city.", max_output_tokens: 16, temperature: 0 };

async function gather(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

test("a chat is answered", async () => {
  const answer = await client.chat.completions.create(chat);
  assert.equal(answer.object, "chat.completion");
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a streamed chat is the whole answer, with usage", async () => {
  const whole = await client.chat.completions.create(chat);
  const chunks = await gather(
    await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } }),
  );
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper gathers the answer", async () => {
  const whole = await client.chat.completions.create(chat);
  const final = await client.chat.completions.stream(chat).finalContent();
  assert.equal(final, whole.choices[0].message.content);
});

test("a stream can be left", async () => {
  const stream = await client.chat.completions.create({ ...chat, max_tokens: 500, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break; // aborts the request
  }
});

test("n answers with log-probabilities", async () => {
  const answer = await client.chat.completions.create({ ...chat, n: 2, temperature: 1, seed: 1, logprobs: true, top_logprobs: 3 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  for (const choice of answer.choices) {
    assert.ok(choice.logprobs.content.length > 0);
    assert.ok(choice.logprobs.content.every((token) => token.top_logprobs.length === 3 && token.logprob <= 0));
  }
});

test("an answer that keeps to a JSON schema", async () => {
  const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"], additionalProperties: false };
  const answer = await client.chat.completions.create({
    ...chat,
    max_tokens: 60,
    response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } },
  });
  assert.equal(typeof JSON.parse(answer.choices[0].message.content).ok, "boolean");
});

test("a completion, of a string and of several, whole and streamed", async () => {
  const one = await client.completions.create(completion);
  const two = await client.completions.create({ ...completion, prompt: [completion.prompt, "Once"] });
  assert.equal(one.object, "text_completion");
  assert.deepEqual(two.choices.map((choice) => choice.index), [0, 1]);
  assert.equal(two.choices[0].text, one.choices[0].text);
  const chunks = await gather(await client.completions.create({ ...completion, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), one.choices[0].text);
});

test("a response, whole and streamed", async () => {
  const whole = await client.responses.create(response);
  assert.ok(whole.output_text);
  const events = await gather(await client.responses.create({ ...response, stream: true }));
  assert.equal(events[0].type, "response.created");
  const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
  assert.equal(text, whole.output_text);
  assert.equal(events.at(-1).type, `response.${whole.status}`);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
});

test("models are listed and retrieved", async () => {
  const models = await gather(client.models.list());
  assert.ok(models.length > 0);
  const alias = await client.models.retrieve(model);
  assert.ok(models.some((listed) => listed.id === alias.id));
});

test("errors are those that the client documents", async () => {
  const wrong = new OpenAI({ ...options, apiKey: "wrong" });
  await assert.rejects(wrong.models.list(), (error) => error instanceof OpenAI.AuthenticationError && error.code === "invalid_api_key");
  await assert.rejects(
    client.chat.completions.create({ ...chat, model: "gpt-4" }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
  );
  await assert.rejects(
    client.chat.completions.create({ ...chat, temperature: 3 }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature",
  );
});

test("a request id comes with every answer", async () => {
  const answer = await client.chat.completions.create({ ...chat, max_tokens: 1 });
  assert.ok(answer._request_id);
  const { response: raw } = await client.chat.completions
    .create({ ...chat, max_tokens: 1 }, { headers: { "X-Request-Id": "from-node_1" } })
    .withResponse();
  assert.equal(raw.headers.get("x-request-id"), "from-node_1");
});

const message = { model, messages: chat.messages, max_tokens: 8, temperature: 0 };

test("Anthropic's client: a message is answered", async () => {
  const answer = await claude.messages.create(message);
  assert.equal(answer.stop_reason, "max_tokens");
  assert.ok(answer.content[0].text);
  assert.ok(answer._request_id.startsWith("req_"));
  const counted = await claude.messages.countTokens({ model, messages: chat.messages });
  assert.equal(answer.usage.input_tokens + answer.usage.cache_read_input_tokens, counted.input_tokens);
});

test("Anthropic's client: a streamed message is the whole one", async () => {
  const whole = await claude.messages.create(message);
  const events = await gather(await claude.messages.create({ ...message, stream: true }));
  const text = events.map((event) => event.delta?.text ?? "").join("");
  assert.equal(text, whole.content[0].text);
  const final = await claude.messages.stream(message).finalMessage();
  assert.deepEqual([final.content[0].text, final.stop_reason], [text, "max_tokens"]);
});

test("Anthropic's client: errors are its own", async () => {
  await assert.rejects(claude.messages.create({ ...message, max_tokens: 0 }), Anthropic.BadRequestError);
  await assert.rejects(claude.messages.create({ ...message, model: "gpt-4" }), Anthropic.NotFoundError);
  await assert.rejects(claude.withOptions({ apiKey: "wrong" }).messages.create(message), Anthropic.AuthenticationError);
});
