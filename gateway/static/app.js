// The page's one script: reads the controls, streams the answer, shows it. Loads nothing from elsewhere.

const TEXTS = {
  en: {
    mode: "Mode", chat: "Chat", complete: "Complete", key: "API key", model: "Model", temperature: "Temperature",
    topK: "Top-k (0: all)", maxTokens: "Max tokens", clear: "New conversation", stop: "Stop", send: "Send",
    chatHint: "Write a message …", completeHint: "Begin a text, the model goes on …",
    chatEmpty: "Ask something. The answer appears here as it is written.",
    completeEmpty: "Write a beginning. The model continues it here.",
    figures: (tokens, seconds) => `${tokens} tokens · ${seconds} s · ${perSecond(tokens, seconds)} tokens/s`,
    time: (seconds) => `${seconds} s`,
    stopped: "stopped",
    wrongKey: "The server refused the API key. Please enter the right one under “API key”.",
    unreachable: "The server cannot be reached. Is it running?",
    broken: "The connection broke off before the answer was complete.",
    busy: "The server is busy. Please try again in a moment.",
    server: (message) => `The server says: ${message}`,
  },
  zh: {
    mode: "模式", chat: "对话", complete: "续写", key: "API 密钥", model: "模型", temperature: "温度",
    topK: "Top-k（0 为不限）", maxTokens: "最多词元数", clear: "新对话", stop: "停止", send: "发送",
    chatHint: "输入消息……", completeHint: "写一个开头，由模型续写……",
    chatEmpty: "请提问，回答会在这里逐字显示。",
    completeEmpty: "写一个开头，模型会在这里续写。",
    figures: (tokens, seconds) => `${tokens} 个词元 · ${seconds} 秒 · 每秒 ${perSecond(tokens, seconds)} 个`,
    time: (seconds) => `${seconds} 秒`,
    stopped: "已停止",
    wrongKey: "服务器拒绝了 API 密钥，请在“API 密钥”处填写正确的密钥。",
    unreachable: "无法连接服务器，它在运行吗？",
    broken: "连接中断，回答不完整。",
    busy: "服务器繁忙，请稍后再试。",
    server: (message) => `服务器返回：${message}`,
  },
};
const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
const text = TEXTS[language];
const DEFAULT_KEY = "a_default_key_for_testing"; // what a server without MY_API_KEY expects
const KEY_STORE = "tidegate.key";

const element = (id) => document.getElementById(id);
const mode = () => document.querySelector("input[name=mode]:checked").value;
const perSecond = (tokens, seconds) => (seconds > 0 ? (tokens / seconds).toFixed(1) : "–");

const bytes = (string) => String.fromCharCode(...new TextEncoder().encode(string)); // a header takes no other characters

class Problem extends Error {} // its message is a sentence for the reader

let conversation = []; // [{role, content}], chat mode only
let running = null; // the AbortController of the answer being written

// --- talking to the server

async function request(path, body, signal) {
  const headers = { "Content-Type": "application/json", "X-API-Key": bytes(element("key").value.trim()) };
  let response;
  try {
    response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body), signal } : { headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem(text.unreachable);
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Problem(text.wrongKey);
  if (response.status === 429) throw new Problem(text.busy);
  const answer = await response.json().catch(() => null);
  throw new Problem(text.server(answer?.error?.message ?? `${response.status} ${response.statusText}`));
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Problem(text.broken);
    });
    if (done) throw new Problem(text.broken);
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice("data: ".length));
      if (event.error) throw new Problem(text.server(event.error.message));
      yield event;
    }
  }
}

function chatRequest() {
  return ["/v1/chat/completions", {
    model: element("model").value || "latest_checkpoint.pt",
    messages: conversation,
    temperature: element("temperature").valueAsNumber,
    top_k: element("top-k").valueAsNumber,
    max_tokens: element("max-tokens").valueAsNumber,
    stream: true,
    stream_options: { include_usage: true },
  }];
}

function completeRequest(prompt) {
  return ["/generate", {
    prompt,
    temperature: element("temperature").valueAsNumber,
    top_k: element("top-k").valueAsNumber,
    max_length: element("max-tokens").valueAsNumber,
    stream: true,
  }];
}

// Both kinds of event as one: a piece of text, and the usage once it is known.
function read(event) {
  const source = event.data ?? event;
  return { piece: event.data?.text ?? event.choices?.[0]?.delta?.content ?? "", usage: source.usage };
}

// --- showing

function show(kind, content) {
  const article = document.createElement("article");
  article.className = kind;
  article.append(content);
  element("texts").append(article);
  article.scrollIntoView({ block: "end" });
  return article;
}

function showProblem(sentence) {
  element("problem").textContent = sentence;
  element("problem").hidden = !sentence;
}

function append(article, piece) {
  const view = element("texts");
  const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < 60; // a reader who scrolled up stays there
  article.append(piece);
  if (atEnd) view.scrollTop = view.scrollHeight;
}

function showRunning(controller) {
  running = controller;
  element("stop").hidden = !controller;
  element("send").disabled = Boolean(controller);
}

// --- what a visitor does

async function send() {
  const prompt = element("prompt").value;
  if (running || !prompt.trim()) return;
  const chatting = mode() === "chat";
  const turns = conversation; // "new conversation" puts another in its place, even while this one is being written
  showProblem("");
  showRunning(new AbortController());
  if (chatting) {
    turns.push({ role: "user", content: prompt });
    show("user", prompt);
    element("prompt").value = "";
  }
  const article = show(`${chatting ? "assistant" : "whole"} writing`, "");
  if (!chatting) article.append(Object.assign(document.createElement("b"), { textContent: prompt }));
  const answer = await write(article, ...(chatting ? chatRequest() : completeRequest(prompt)));
  article.classList.remove("writing");
  showRunning(null);
  if (answer) {
    if (chatting) turns.push({ role: "assistant", content: answer });
  } else {
    article.remove();
    if (chatting && turns === conversation) takeBack(prompt);
  }
  element("prompt").focus();
}

// Streams an answer into `article`; returns the text, as far as it came.
async function write(article, path, body) {
  const begin = performance.now();
  const seconds = () => ((performance.now() - begin) / 1000).toFixed(1);
  let answer = "";
  try {
    for await (const event of events(await request(path, body, running.signal))) {
      const { piece, usage } = read(event);
      answer += piece;
      append(article, piece);
      element("figures").textContent = usage ? text.figures(usage.completion_tokens, seconds()) : text.time(seconds());
    }
  } catch (error) {
    if (error.name === "AbortError") element("figures").textContent = `${text.time(seconds())} · ${text.stopped}`;
    else if (error instanceof Problem) showProblem(error.message);
    else throw error;
  }
  return answer;
}

// A message that got no answer returns into the box, so that it can be sent again.
function takeBack(prompt) {
  conversation.pop();
  element("texts").lastElementChild?.remove();
  element("prompt").value ||= prompt;
}

function clear() {
  running?.abort();
  conversation = [];
  element("texts").replaceChildren();
  element("figures").textContent = "";
  showProblem("");
}

async function loadModels() {
  try {
    const models = (await (await request("/v1/models")).json()).data;
    element("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
    showProblem("");
    if (models.every((model) => !model.chat_template)) document.querySelector("input[value=complete]").click();
  } catch (error) {
    showProblem(error.message);
  }
}

function showMode() {
  clear();
  const chatting = mode() === "chat";
  element("texts").dataset.empty = chatting ? text.chatEmpty : text.completeEmpty;
  element("prompt").placeholder = chatting ? text.chatHint : text.completeHint;
  element("prompt").setAttribute("aria-label", element("prompt").placeholder);
  element("model").disabled = !chatting; // a continuation always comes from the server's default model
}

document.documentElement.lang = language;
for (const node of document.querySelectorAll("[data-text]")) node.textContent = text[node.dataset.text];
element("key").value = localStorage.getItem(KEY_STORE) ?? DEFAULT_KEY;
element("key").addEventListener("change", () => {
  localStorage.setItem(KEY_STORE, element("key").value.trim());
  loadModels();
});
element("temperature").addEventListener("input", () => { element("temperature-shown").value = element("temperature").value; });
for (const choice of document.querySelectorAll("input[name=mode]")) choice.addEventListener("change", showMode);
element("controls").addEventListener("submit", (event) => event.preventDefault());
element("form").addEventListener("submit", (event) => { event.preventDefault(); send(); });
element("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) send();
});
element("stop").addEventListener("click", () => running?.abort());
element("clear").addEventListener("click", clear);
showMode();
loadModels();
