"""A conversation in the terminal, streamed, with OpenAI's client: `python -m examples.chat`; an empty line ends it.

TIDEGATE_URL and MY_API_KEY name a server other than that of `make serve`. Needs `pip install openai`.
"""

import os

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam


def main() -> None:
    url = os.environ.get("TIDEGATE_URL", "http://localhost:5002")
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("MY_API_KEY", "a_default_key_for_testing"))
    messages: list[ChatCompletionMessageParam] = []
    while question := read_question():
        messages.append({"role": "user", "content": question})
        answer = ""
        stream = client.chat.completions.create(
            model="latest_checkpoint.pt", messages=messages, max_tokens=200, temperature=0, stream=True
        )
        for chunk in stream:
            piece = chunk.choices[0].delta.content or ""
            print(piece, end="", flush=True)
            answer += piece
        print()
        messages.append({"role": "assistant", "content": answer})


def read_question() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


if __name__ == "__main__":
    main()
