"""litgpt's directories: its own samples, and models of transformers under litgpt's names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.text.chat_environment import compile_template, render
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, prefill, shared
from tests.export.litgpt_models import COUNT, LLAMA, LLAMA3, VARIANTS, llama, qwen3, renamed, write
from tests.export.samples import logits_of, save_tokenizer

TOKENS = [int(token) for token in np.random.default_rng(4).integers(0, COUNT, 48)]


def assert_same(directory: Path, model: nn.Module) -> None:
    """The graph, in chunks, and the reference say what transformers' model says."""
    expected = logits_of(model)(np.array(TOKENS))
    checkpoint = read(directory)
    assert_same_logits(prefill(decoder_of(checkpoint, directory), TOKENS, chunk=13), expected)
    assert_same_logits(checkpoint.reference(np.array(TOKENS)), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_under_litgpts_names_is_served_as_transformers_computes_it(name: str, tmp_path: Path) -> None:
    make, parts, config = VARIANTS[name]
    model = make()
    assert_same(write(tmp_path, renamed(model, parts), **config), model)


def test_keys_and_values_of_older_versions_lie_group_by_group(tmp_path: Path) -> None:
    model = llama()
    state = renamed(model, LLAMA)
    for layer in range(2):
        rows = state.pop(f"transformer.h.{layer}.attn.qkv.weight").view(8, 16, 64)
        state[f"transformer.h.{layer}.attn.attn.weight"] = rows[[0, 1, 4, 6, 2, 3, 5, 7]].reshape(128, 64)
    assert_same(write(tmp_path, state, key=None), model)


def test_neighbouring_rows_are_turned_where_the_configuration_says_so(tmp_path: Path) -> None:
    model = qwen3()
    state = renamed(model, LLAMA)
    pairs = torch.arange(32).view(2, 16).T.flatten()  # row 0 beside row 16
    for layer in range(2):
        attention = f"transformer.h.{layer}.attn"
        rows = state[f"{attention}.qkv.weight"].view(8, 32, 64)
        rows = torch.cat([rows[:6, pairs], rows[6:]])
        state[f"{attention}.qkv.weight"] = rows.reshape(256, 64)
        for name in ("norm_q", "norm_k"):
            state[f"{attention}.{name}.weight"] = state[f"{attention}.{name}.weight"][pairs]
    assert_same(write(tmp_path, state, head_size=32, norm_qk=True, rope_interleave=True), model)


def test_windows_of_older_versions_are_in_all_layers_or_in_every_second(tmp_path: Path) -> None:
    state = renamed(llama(), LLAMA)
    for placing, windows in ((1, (8, 8)), (None, (8, 8)), (2, (8, None)), ("interleaved", (8, None))):
        write(tmp_path, state, sliding_window_size=8, sliding_window_layer_placing=placing)
        assert read(tmp_path).architecture.layer_window == windows


def test_the_final_checkpoint_or_else_the_last_one_is_meant_by_the_directory_around_it(tmp_path: Path) -> None:
    state = renamed(llama(), LLAMA)
    last = write(tmp_path / "step-00000200", state)
    write(tmp_path / "step-00000050", state)
    assert read(tmp_path).source == last
    assert read(last / "lit_model.pth").source == last
    final = write(tmp_path / "final", state)
    assert read(tmp_path).source == final


def test_training_state_beside_the_model_is_left_alone(tmp_path: Path) -> None:
    model = llama()
    write(tmp_path, {})
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in renamed(model, LLAMA).items()}
    torch.save(
        {
            "model": compiled,
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
            "train_dataloader": {"dataset": None, "current_epoch": 0},
            "iter_num": 3,
        },
        tmp_path / "lit_model.pth",
    )
    assert_same(tmp_path, model)


def test_the_ends_of_a_text_are_the_tokenizers_and_the_generations(tmp_path: Path) -> None:
    write(tmp_path, renamed(llama(), LLAMA))
    generation = tmp_path / "generation_config.json"
    for text, more in (("{}", set()), ('{"eos_token_id": [5, 99999]}', {5}), ('{"eos_token_id": 5', set())):
        generation.write_text(text)
        assert set(read(tmp_path).tokenizer.end_tokens) == {0, 2} | more


def test_a_model_that_was_tuned_on_alpaca_is_asked_in_its_words(tmp_path: Path) -> None:
    write(tmp_path, renamed(llama(), LLAMA))
    (tmp_path / "prompt_style.yaml").write_text("class_path: litgpt.prompts.Alpaca\n")
    template = read(tmp_path).tokenizer.chat_template
    assert template is not None
    messages = [{"role": "user", "content": "Say A."}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "B."}]
    text = render(compile_template(template), {"messages": messages, "add_generation_prompt": True})
    first, second = text.split("<|im_end|>")  # the tokenizer's end of a text
    asked = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    assert first == f"{asked}\n\n### Instruction:\nSay A.\n\n### Response:\nA"
    assert second == f"{asked}\n\n### Instruction:\nB.\n\n### Response:\n"


def test_a_model_with_another_prompt_style_keeps_its_tokenizers_template(tmp_path: Path) -> None:
    write(tmp_path, renamed(llama(), LLAMA))
    (tmp_path / "prompt_style.yaml").write_text("class_path: litgpt.prompts.Default\n")
    assert "bos_token" in (read(tmp_path).tokenizer.chat_template or "")
    (tmp_path / "tokenizer_config.json").unlink()  # its turn tokens tell the rest
    assert "<|im_start|>" in (read(tmp_path).tokenizer.chat_template or "")


def test_a_file_without_its_head_is_refused(tmp_path: Path) -> None:
    state = renamed(llama(), LLAMA)
    del state["lm_head.weight"]
    with pytest.raises(CheckpointError, match=r"lacks the tensor lm_head\.weight"):
        read(write(tmp_path, state))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"mlp_class_name": "LLaMAMoE"}, "mlp_class_name = 'LLaMAMoE'"),
        ({"latent_attention": {"q_lora_rank": 8}}, "latent_attention"),
        ({"rope_adjustments": {"factor": 2.0, "beta_fast": 32, "beta_slow": 1}}, "rope_adjustments"),
        ({"rope_adjustments": LLAMA3 | {"high_freq_factor": 1.0, "original_max_seq_len": 9}}, "above low_freq_factor = 1.0"),
        ({"rotary_percentage": 0.2}, "turns 3 of a head's 16 rows"),
        ({"sliding_window_size": 8, "sliding_window_indices": [1]}, "sliding_window_indices = [1]"),
        ({"shared_attention_norm": True}, "shared_attention_norm = True"),
        ({"norm_class_name": "LayerNorm", "norm_qk": True}, "norm_qk = True"),
        ({"n_embd": "64"}, "n_embd = '64'"),
        ({"n_query_groups": 3}, "do not share 3 key-value heads"),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_name(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    write(tmp_path, renamed(llama(), LLAMA), **config)
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path)
    assert sentence in str(refused.value)


def test_a_lora_without_its_base_is_refused_with_the_way_to_merge_it(tmp_path: Path) -> None:
    write(tmp_path / "final", {"transformer.h.0.attn.qkv.lora_A": torch.zeros(2, 64)})
    (tmp_path / "final" / "lit_model.pth").rename(tmp_path / "final" / "lit_model.pth.lora")
    with pytest.raises(CheckpointError, match="litgpt merge_lora"):
        read(tmp_path)
    write(tmp_path / "final", renamed(llama(), LLAMA) | {"transformer.h.0.attn.qkv.lora_A": torch.zeros(2, 64)})
    with pytest.raises(CheckpointError, match="litgpt merge_lora"):
        read(tmp_path)


def test_a_checkpoint_without_its_configuration_or_tokenizer_is_refused(tmp_path: Path) -> None:
    write(tmp_path, renamed(llama(), LLAMA), tokenizer=False)
    with pytest.raises(CheckpointError, match="TOKENIZER"):
        read(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    save_tokenizer(elsewhere)
    assert read(tmp_path, tokenizer=str(elsewhere)).architecture.vocabulary_size == COUNT
    (tmp_path / "model_config.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"lacks model_config\.yaml"):
        read(tmp_path, tokenizer=str(elsewhere))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &a [1]\nb: [*a, *a]\n", "refers to parts of itself"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[" * 5_000, "more than 64 brackets"),
        ("- " * 5_000, "not valid YAML"),
        ("n_layer: [", "not valid YAML"),
        ("- 1", "holds no settings"),
    ],
)
def test_a_strange_configuration_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    write(tmp_path, renamed(llama(), LLAMA))
    (tmp_path / "model_config.yaml").write_text(text)
    with pytest.raises(CheckpointError) as refused:
        read(tmp_path)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("part", ["", "final", "final/lit_model.pth"])
@pytest.mark.parametrize("name", ["litgpt-llama", "litgpt-pythia"])
def test_litgpts_own_samples_say_what_they_said_there(name: str, part: str, tmp_path: Path) -> None:
    folder = shared(name)
    assert_as_written(folder / part, folder, tmp_path)
