"""Chat templates are rendered byte for byte as transformers renders them: at the export, and in the gateway's own process."""

# ruff: noqa: E501  lines of templates

from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from export.text.chat_environment import compile_template, render
from export.text.chat_template import with_tokens
from gateway.errors import InvalidRequest
from gateway.text.prompt_process import Template

ROOT = Path(__file__).parents[2]
TOKENS = {"bos_token": "<s>", "eos_token": '<|"end"|>\\', "pad_token": "[PAD]", "image_token": "<图>"}
MESSAGES = [
    {"role": "system", "content": "Be <brief> & 'kind'.\n"},
    {"role": "user", "content": 'Hello "you" 你好 😀'},
    {"role": "assistant", "content": "  Hi  ", "name": "gate", "extra": {"b": [1, None], "a": True}},
    {"role": "user", "content": "And now?"},
]
TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "tojson": "{{ messages | tojson }}{{ messages[2] | tojson(indent=2) }}{{ messages[2] | tojson(separators=(',', ':')) }}"
    "{{ messages[1].content | tojson(ensure_ascii=True) }}{{ messages[2] | tojson(sort_keys=True) }}",
    "absent": "{{ tools }}{{ documents }}{% if tools is not none %}tools{% endif %}{% if documents is defined %}defined{% endif %}"
    "{{ tools is none }}{% if not tools %}no tools{% endif %}{{ enable_thinking is defined }}{{ unk_token is defined }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token + image_token }}{{ unk_token }}{{ sep_token is defined }}",
    "whitespace": "\n  {% if bos_token %}\n    a\n  {% endif %}\n{#- c -#}\n b {%- if true %} c {% endif -%}\n\n",
    "begins with a line": "\n\n{{ eos_token }}\n",
    "begins with a space": "  {% set x = eos_token %}{{ x }}",
    "tokens in a macro": "{% macro turn(m) %}{{ bos_token }}{{ m.content | trim }}{{ eos_token }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "tokens that are set": "{% set eos_token = eos_token + '!' %}{{ eos_token }}{% if false %}{% set bos_token = 1 %}{% endif %}{{ bos_token }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% set y = 1 %}{% endgeneration %}"
    "{{ y is defined }}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "generation with dashes": "a {%- generation -%}  b  {%- endgeneration -%}  c",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ loop.index }}{% if loop.index == 3 %}"
    "{% break %}{% endif %}{% endfor %}{{ range(3) | list }}",
    "namespace": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'user' %}"
    "{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.n }}{{ dict(a=1, b=2) }}{{ dict.fromkeys(['a'], 1) }}",
    "time": "{{ strftime_now('%Y %B') }}",
    "filters and methods": "{{ messages[1].content.upper().split(' ') | join('|') }}{{ messages[2].items() | list | length }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}{{ messages[::-1][0]['content'][:3] }}",
    "refuses": "{{ raise_exception('Roles must alternate & so <on>') }}",
    "a private name": "{% set ns = namespace(_a=1) %}",
    "a private attribute": "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "changes a message": "{% set _ = messages.append(1) %}",
    "adds nothing to nothing": "{{ sep_token + 'x' }}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_is_rendered_as_transformers_renders_it(kind: str) -> None:
    source = TEMPLATES[kind]
    own = with_tokens(source, TOKENS)
    for add_generation_prompt in (True, False):
        conversation = {"messages": MESSAGES, "add_generation_prompt": add_generation_prompt}
        try:
            (expected,), _ = render_jinja_template(
                [MESSAGES], chat_template=source, add_generation_prompt=add_generation_prompt, **TOKENS
            )
        except Exception as theirs:
            with pytest.raises(type(theirs)):
                render(compile_template(own), conversation)
            with pytest.raises(InvalidRequest, match="this model's chat template"):
                Template(own).render(conversation, "messages")
        else:
            assert render(compile_template(own), conversation) == expected
            answer = Template(own).render(conversation, "messages")
            assert answer == expected


def test_a_token_does_not_take_the_place_of_the_conversation() -> None:
    source = "{% for message in messages %}{{ message.content }}{{ image }}{% endfor %}{{ tools is none }}"
    tokens = {"messages": "<x>", "tools": "<y>", "add_generation_prompt": "<z>", "image": "<i>"}
    assert render(compile_template(with_tokens(source, tokens)), {"messages": [{"content": "hi"}]}) == "hi<i>True"


def test_the_export_tries_out_templates_in_the_gateways_own_environment() -> None:
    ours, gateways = (ROOT / package / "chat_environment.py" for package in ("export/text", "gateway/text"))
    assert ours.read_bytes() == gateways.read_bytes()
