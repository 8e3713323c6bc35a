"""Default chat templates for tokenizers that have a family's turn tokens but no template.

Sources: the chat templates of Gemma 3, of Llama 3 and of Qwen.
"""

from tokenizers import Tokenizer

from export.checkpoint import TokenizerFiles
from export.text.tokenizers import guarded

GEMMA = """\
{%- set system = namespace(text='') -%}
{%- for message in messages -%}
  {%- if message['role'] in ('system', 'developer') -%}
    {%- set system.text = system.text + message['content'] + '\\n\\n' -%}
  {%- else -%}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
    {%- if message['role'] == 'user' -%}
      {{- system.text -}}
      {%- set system.text = '' -%}
    {%- endif -%}
    {{- message['content'] | trim + '<end_of_turn>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
LLAMA3 = """\
{%- for message in messages -%}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
CHATML = """\
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
TEMPLATES = {  # keyed by the tokens each needs; the flag says whether a conversation starts with the BOS token
    ("<start_of_turn>", "<end_of_turn>"): (GEMMA, True),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"): (LLAMA3, True),
    ("<|im_start|>", "<|im_end|>"): (CHATML, False),
}


def default_template(files: TokenizerFiles) -> str | None:
    """Returns None if the tokenizer has no known turn tokens."""
    with guarded("its tokenizer cannot be loaded"):
        added = Tokenizer.from_str(files.tokenizer_json).get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    for tokens, (template, begins) in TEMPLATES.items():
        if special.issuperset(tokens):
            return "{{- bos_token -}}\n" + template if begins and "bos_token" in files.special_tokens else template
    return None
