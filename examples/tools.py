"""A function that the model calls, with OpenAI's client: `python -m examples.tools "What is the weather in Paris?"`

TIDEGATE_URL and MY_API_KEY name a server other than that of `make serve`. Needs `pip install openai`.
"""

import json
import os
import sys
from typing import Any

from openai import OpenAI

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}


def get_weather(city: str, unit: str) -> str:
    return f"18 degrees {unit} in {city}"


def main() -> None:
    url = os.environ.get("TIDEGATE_URL", "http://localhost:5002")
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("MY_API_KEY", "a_default_key_for_testing"))
    asked: dict[str, Any] = {"model": "latest_checkpoint.pt", "tools": [TOOL], "temperature": 0, "max_tokens": 100}
    messages: list[Any] = [{"role": "user", "content": sys.argv[1]}]
    # A small model seldom calls by itself: it must, once. Larger ones need no tool_choice.
    answer = client.chat.completions.create(**asked, messages=messages, tool_choice="required", parallel_tool_calls=False)
    message = answer.choices[0].message
    messages.append(message)
    for call in message.tool_calls or []:
        arguments = json.loads(call.function.arguments)  # they follow the schema, always
        result = get_weather(**arguments)
        print(f"{call.function.name}({arguments}) → {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    print(client.chat.completions.create(**asked, messages=messages, tool_choice="none").choices[0].message.content)


if __name__ == "__main__":
    main()
