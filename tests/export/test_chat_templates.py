"""Chat templates: a model's own, Dolly's or a file's, each as the model was tuned with; what does not render is refused."""

from pathlib import Path

import jinja2
import pytest

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.text.chat_template import require_rendering
from tests.export import samples


def test_the_models_own_chat_template_needs_nothing_but_the_messages(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    expected = "<|endoftext|><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(read(tmp_path).tokenizer.chat_template, [("user", "hi")]) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] + eos_token }}")
    assert rendered(read(tmp_path).tokenizer.chat_template, [("user", "hi")]) == "hi<|im_end|>"


def test_dolly_is_the_prompt_the_model_was_tuned_with(tmp_path: Path) -> None:
    template = dolly(tmp_path)
    assert rendered(template, [("user", "Name a sea.")]) == "### Instruction:\nName a sea.\n\n### Response:\n"
    with_context = "### Instruction:\nName a sea.\n\n### Context:\nBe brief.\n\n### Response:\n"
    assert rendered(template, [("system", "Be brief."), ("user", "Name a sea.")]) == with_context


def test_dolly_writes_earlier_turns_as_records_that_ended(tmp_path: Path) -> None:
    messages = [("user", "One?"), ("assistant", "1."), ("user", "Two?")]
    expected = "### Instruction:\nOne?\n\n### Response:\n1.<|endoftext|>### Instruction:\nTwo?\n\n### Response:\n"
    assert rendered(dolly(tmp_path), messages) == expected


def test_a_template_can_be_a_file_or_none_and_nothing_else(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    (tmp_path / "mine.jinja").write_text("{{ messages[0]['content'] }}!")
    assert (
        rendered(read(tmp_path, chat_template=str(tmp_path / "mine.jinja")).tokenizer.chat_template, [("user", "hi")]) == "hi!"
    )
    assert read(tmp_path, chat_template="none").tokenizer.chat_template is None
    with pytest.raises(CheckpointError, match="the chat template 'alpaca' is neither `dolly`, `none` nor a file"):
        read(tmp_path, chat_template="alpaca")


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for message in messages %}", "TemplateSyntaxError: Unexpected end of template"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError: can only concatenate str"),
        ("{{ raise_exception('no users') }}", "TemplateError: no users"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{{ messages.append(messages[0]) }}", "SecurityError"),
    ],
)
def test_a_template_that_does_not_render_is_refused(template: str, fault: str) -> None:
    own = f"its chat template does not render .{fault}.*`--chat-template none` leaves it out"
    with pytest.raises(CheckpointError, match=own) as refused:
        require_rendering(template, None)
    assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError, match=f"the chat template mine.jinja does not render: {fault}"):
        require_rendering(template, "mine.jinja")


def test_a_template_may_use_what_those_of_hugging_face_use(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    template = "{% for message in messages %}{% break %}{% endfor %}{{ strftime_now('%Y') }}{{ messages | tojson }}"
    samples.save_tokenizer(tmp_path, template)
    assert read(tmp_path).tokenizer.chat_template == template
    require_rendering(template, None)


def test_a_template_of_other_bytes_than_utf8_is_refused(tmp_path: Path) -> None:
    samples.hf_llama(tmp_path)
    (tmp_path / "mine.jinja").write_bytes("é".encode("latin-1"))
    with pytest.raises(CheckpointError, match="mine.jinja is not UTF-8 text"):
        read(tmp_path, chat_template=str(tmp_path / "mine.jinja"))


def dolly(directory: Path) -> str:
    samples.hf_gpt2(directory)
    template = read(directory, chat_template="dolly").tokenizer.chat_template
    assert template is not None
    return template


def rendered(template: str | None, messages: list[tuple[str, str]]) -> str:
    assert template is not None
    turns = [{"role": role, "content": content} for role, content in messages]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # as transformers renders them
    return environment.from_string(template).render(messages=turns, add_generation_prompt=True)
