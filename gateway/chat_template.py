"""A model's chat template: from messages to the text that the model continues."""

from gateway.errors import InvalidRequest
from gateway.sandbox import BoundExceeded, Sandbox

SECONDS = 2.0  # of processor time for one rendering; real templates take a millisecond
MEMORY = 256 << 20  # bytes, besides what the process takes by itself


class ChatTemplate:
    """Renders in a process with bounds: see gateway/template_process.py. Blocks; threads may share it."""

    def __init__(self, source: str) -> None:
        self._sandbox = Sandbox("gateway.template_process", source, seconds=SECONDS, memory=MEMORY)

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Raises InvalidRequest where the template does not render them."""
        try:
            answer = self._sandbox.ask({"messages": messages, "add_generation_prompt": add_generation_prompt})
        except BoundExceeded:
            answer = {}
        if "text" in answer:
            text: str = answer["text"]
            return text
        if "refused" in answer:
            raise InvalidRequest(f"messages: this model's chat template refuses them: {answer['refused']}", param="messages")
        raise InvalidRequest("messages: this model's chat template cannot render them", param="messages")
