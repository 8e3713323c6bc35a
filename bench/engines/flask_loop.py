"""The plain nanoGPT loop behind Flask, as small services have it: `… DIRECTORY THREADS PORT`.

One model, one thread a request, the whole sequence through the model for every token, no cache. It streams, so that times to
the first token can be compared.
"""

import json
import sys
from collections.abc import Iterator

import torch
import transformers
from flask import Flask, Response, request
from tokenizers import Tokenizer

directory, threads, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
app = Flask(__name__)


def generated(prompt: str, tokens: int) -> Iterator[str]:
    sequence = torch.tensor([tokenizer.encode(prompt).ids])
    for _ in range(tokens):
        with torch.inference_mode():
            token = model(sequence, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
        sequence = torch.cat([sequence, token], 1)
        yield f"data: {json.dumps({'choices': [{'text': tokenizer.decode([int(token)])}]})}\n\n"
    yield "data: [DONE]\n\n"


@app.post("/v1/completions")
def completions() -> Response:
    asked = request.get_json()
    return Response(generated(asked["prompt"], asked["max_tokens"]), mimetype="text/event-stream")


@app.get("/health")
def health() -> str:
    return "ok"


app.run("127.0.0.1", port, threaded=True)
