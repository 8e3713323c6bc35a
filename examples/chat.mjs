// One streamed answer with Node 18 or newer and nothing else: node examples/chat.mjs "What is 2 + 2?"
// TIDEGATE_URL and MY_API_KEY name another server.
const { TIDEGATE_URL = "http://localhost:5002", MY_API_KEY = "a_default_key_for_testing" } = process.env;

async function* chat(question) {
  const response = await fetch(`${TIDEGATE_URL}/v1/chat/completions`, {
    method: "POST",
    headers: { Authorization: `Bearer ${MY_API_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify({
      model: "latest_checkpoint.pt",
      messages: [{ role: "user", content: question }],
      max_tokens: 100,
      temperature: 0,
      stream: true,
    }),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  let unread = "";
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (unread + bytes).split("\n");
    unread = lines.pop(); // a line may come in two parts
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue; // comments begin with a colon
      const event = JSON.parse(line.slice("data: ".length));
      if (event.error) throw new Error(event.error.message);
      yield event.choices[0].delta.content ?? "";
    }
  }
}

try {
  for await (const piece of chat(process.argv[2] ?? "What is 2 + 2?")) process.stdout.write(piece);
  process.stdout.write("\n");
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
