"""nanochat's checkpoints of all times, as its own training leaves them, and in transformers' form."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from export.checkpoint import CheckpointError
from export.checkpoints import located, read, torch_file
from export.checkpoints.nanochat_model import generation
from export.text.chat_environment import compile_template, render
from export.text.tiktoken_files import from_pickle
from tests.export import nanochat_files as made
from tests.export.families import assert_as_written, assert_same_logits, decoder_of, prefill, shared

SAMPLES = ["nanochat-2025-12", "nanochat-2026-01-30", "nanochat-current"]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_nanochat_says_here_what_it_said_there(name: str, tmp_path: Path) -> None:
    folder = shared(name)
    assert_as_written(folder, folder, tmp_path)


@pytest.mark.parametrize("since", made.GENERATIONS)
@pytest.mark.parametrize("changes", [{}, {"n_layer": 4, "n_head": 2, "n_kv_head": 2, "window_pattern": "sssl"}, {"n_layer": 1}])
def test_every_generation_is_computed_as_its_code_did(since: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Texts are longer than the short window, and the vocabulary is no multiple of 64."""
    checkpoint = read(made.base_directory(tmp_path, since, **changes))
    tokens = made.text(200)
    logits = prefill(decoder_of(checkpoint, tmp_path), tokens)
    assert logits.shape[1] == made.VOCABULARY
    assert_same_logits(logits, _as_its_code(made.state_dict(since, **changes), made.settings(**changes), since, tokens))
    assert_same_logits(checkpoint.reference(np.array(tokens)), logits)


def _as_its_code(tensors: dict[str, torch.Tensor], config: dict[str, Any], since: str, tokens: list[int]) -> np.ndarray:
    """nanochat/gpt.py in a few lines of torch, by its date and not by its tensors."""
    t = {name: tensor.float() for name, tensor in tensors.items()}
    layers, heads = config["n_layer"], config["n_head"]
    theta, sharp, gain = (1e5, 1.2 if since >= "2026-03-14" else 1.15, 3) if since >= "2026-03-09" else (1e4, 1.0, 2)
    short = 128  # half, a third and a quarter of 256, in tiles of 128 where it is no half
    size, n, ids = config["n_embd"] // heads, len(tokens), torch.tensor(tokens)
    angles = torch.outer(torch.arange(n), theta ** (-torch.arange(0, size, 2) / size))[:, None]

    def norm(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (x.shape[-1],))

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return norm(torch.cat([a * angles.cos() + b * angles.sin(), b * angles.cos() - a * angles.sin()], -1)) * sharp

    x = norm(t["transformer.wte.weight"][ids])
    if "smear_gate.weight" in t:
        gate = t["smear_lambda"] * torch.sigmoid(x[1:, :24] @ t["smear_gate.weight"].T)
        x = torch.cat([x[:1], x[1:] + gate * x[:-1]])
    first, middle = x, x
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        if "resid_lambdas" in t:
            x = t["resid_lambdas"][layer] * x + t["x0_lambdas"][layer] * first
        hidden = norm(x)
        q, k, v = ((hidden @ t[f"{block}.attn.c_{letter}.weight"].T).view(n, -1, size) for letter in "qkv")
        if f"value_embeds.{layer}.weight" in t:
            channels = 12 if since >= "2026-03-09" else 32
            gate = gain * torch.sigmoid(hidden[:, :channels] @ t[f"{block}.attn.ve_gate.weight"].T)
            v = v + gate[:, :, None] * t[f"value_embeds.{layer}.weight"][ids].view(n, -1, size)
        distance = torch.arange(n)[:, None] - torch.arange(n)
        pattern = config["window_pattern"].upper() if since >= "2026-01-11" else "L"
        is_short = pattern[layer % len(pattern)] == "S" and layer < layers - 1
        seen = (distance >= 0) & (distance <= (short if is_short else n))
        q, k, v = (part.transpose(0, 1).repeat_interleave(heads // part.shape[1], 0) for part in (turned(q), turned(k), v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1).reshape(n, -1)
        x = x + y @ t[f"{block}.attn.c_proj.weight"].T
        x = x + (norm(x) @ t[f"{block}.mlp.c_fc.weight"].T).relu().square() @ t[f"{block}.mlp.c_proj.weight"].T
        if layer == layers // 2:
            middle = x
    if "backout_lambda" in t:
        x = x - t["backout_lambda"] * middle
    return (15 * torch.tanh(norm(x) @ t["lm_head.weight"].T / 15)).numpy()


@pytest.mark.parametrize(
    ("since", "context", "window"),
    [
        ("2026-01-11", 2048, 1024),
        ("2026-01-16", 1000, 500),
        ("2026-03-09", 2048, 768),
        ("2026-03-09", 1024, 384),
        ("2026-03-14", 2048, 512),
        ("2026-03-14", 1000, 256),
        ("2026-03-14", 128, None),
    ],
)
def test_short_windows_are_as_long_as_when_it_was_trained(since: str, context: int, window: int | None, tmp_path: Path) -> None:
    """Half of the context, a third, a quarter: nanochat counts the keys before a query's own, and the last layer sees all."""
    architecture = read(made.base_directory(tmp_path, since, sequence_len=context, window_pattern="SSS")).architecture
    assert architecture.layer_window == (*[window and window + 1] * 2, None)


def test_tensors_tell_the_generation() -> None:
    found = [generation(torch_file.raw_tensors(torch_file.state_dict(made.state_dict(since)))) for since in made.GENERATIONS]
    assert [(one.theta, one.qk_scale, one.gate_scale, one.window_share) for one in found] == [
        *[(1e4, 1.0, 2.0, 2)] * 3,
        (1e5, 1.15, 3.0, 3),
        (1e5, 1.2, 3.0, 4),
    ]


def test_a_checkpoint_of_a_compiled_model_is_the_same(tmp_path: Path) -> None:
    plain = made.base_directory(tmp_path)
    compiled = {f"_orig_mod.{name}": tensor for name, tensor in made.state_dict().items()}
    made.save(tmp_path / "base_checkpoints" / "d3", compiled, made.settings())
    one, other = read(plain), read(tmp_path / "base_checkpoints")
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.architecture == other.architecture


def test_it_finds_the_checkpoint_that_nanochat_would_chat_with(tmp_path: Path) -> None:
    def checkpoint(place: str, step: int = 1) -> Path:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        model = tmp_path / place / f"model_{step:06d}.pt"
        model.touch()
        model.with_name(f"meta_{step:06d}.json").touch()
        return model

    base = checkpoint("base_checkpoints/d20")
    assert located(tmp_path) == base
    checkpoint("mid_checkpoints/d4")
    checkpoint("chatrl_checkpoints/d4")
    tuned = checkpoint("chatsft_checkpoints/d4")
    assert located(tmp_path) == tuned  # its chat takes this stage, and not what reinforcement learning made of it
    deeper = checkpoint("chatsft_checkpoints/d12", 999999)
    checkpoint("chatsft_checkpoints/run7", 5)
    assert located(tmp_path) == located(tmp_path / "chatsft_checkpoints") == deeper
    newer = checkpoint("chatsft_checkpoints/d12", 1000000)
    (newer.parent / "model_2000000.pt").touch()  # still being written: its meta follows
    (newer.parent / "optim_2000000_rank0.pt").touch()
    assert located(newer.parent) == located(tmp_path) == newer
    assert located(tmp_path / "base_checkpoints") == located(base.parent) == base
    experiment = checkpoint("experiments/default/d12/sft")
    checkpoint("experiments/default/d12/base")
    assert located(tmp_path / "experiments" / "default") == located(experiment.parent.parent) == experiment


def test_models_without_meta_are_not_nanochats(tmp_path: Path) -> None:
    """build-nanogpt's log has names like these."""
    (tmp_path / "model_19072.pt").touch()
    (tmp_path / "log.txt").touch()
    assert located(tmp_path) != tmp_path / "model_019072.pt"
    model = made.base_directory(tmp_path / "nanochat")
    model.with_name("meta_000650.json").unlink()
    with pytest.raises(CheckpointError, match=r"it lacks meta_000650\.json"):
        read(model)


def test_tags_without_a_depth_go_by_time(tmp_path: Path) -> None:
    models = [made.save(tmp_path / "base_checkpoints" / tag, {}, {}) for tag in ("first", "second")]
    os.utime(models[0].parent, (2e9, 2e9))
    assert located(tmp_path) == models[0]


@pytest.mark.parametrize("place", ["", "tokenizer"])
def test_files_that_lie_together_are_served_too(place: str, tmp_path: Path) -> None:
    """As published models have them: karpathy/nanochat-d32."""
    model = made.save(tmp_path, made.state_dict(), made.settings())
    with pytest.raises(CheckpointError, match=r"looked for tokenizer/tokenizer\.pkl.*TOKENIZER"):
        read(model)
    made.tokenizer(tmp_path).rename(tmp_path / place / "tokenizer.pkl")
    assert read(tmp_path).architecture.vocabulary_size == made.VOCABULARY


def test_a_tokenizer_that_is_named_has_its_conversations_too(tmp_path: Path) -> None:
    model = made.save(tmp_path / "model", made.state_dict(), made.settings())
    tokenizer = made.tokenizer(tmp_path / "elsewhere")
    assert read(model, tokenizer=str(tokenizer)).tokenizer.chat_template is not None


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    model = made.base_directory(tmp_path)
    made.tokenizer(tmp_path, made.encoding(made.WORDS[:-1]))
    with pytest.raises(CheckpointError, match="another model's"):
        read(model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window_pattern": "SXL"}, "window_pattern = 'SXL', allowed are the letters S and L"),
        ({"window_pattern": ""}, "window_pattern = '', allowed"),
        ({"window_pattern": None}, "window_pattern = None, allowed"),
        ({"n_kv_head": 3}, "4 heads do not share 3"),
        ({"n_layer": 2000}, "n_layer = 2000, allowed are 1 to 1024"),
        ({"n_head": "4"}, "n_head = '4', allowed"),
        ({"n_embd": 48}, "shape"),
        ({"n_experts": 8}, "asks for 'n_experts'"),
        ({"sequence_len": None}, "lacks sequence_len"),
    ],
)
def test_configurations_of_no_nanochat_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    made.tokenizer(tmp_path)
    model = made.save(tmp_path / "base_checkpoints" / "d3", made.state_dict(), made.settings(**changes))
    with pytest.raises(CheckpointError, match=said):
        read(model)


def test_settings_that_are_off_ask_for_nothing(tmp_path: Path) -> None:
    made.tokenizer(tmp_path)
    config = made.settings(dropout=0.0, tie_weights=False)
    assert read(made.save(tmp_path / "base_checkpoints" / "d3", made.state_dict(), config)).name == "model_000650.pt"


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("bigram_lambdas", torch.ones(3), "tensors that this kind of model does not have: bigram_lambdas"),
        ("smear_lambda", torch.ones(2), r"smear_lambda has shape \[2\], expected is \[1\]"),
        ("resid_lambdas", torch.full((3,), torch.nan), "resid_lambdas holds NaN"),
        ("transformer.h.2.attn.ve_gate.weight", torch.ones(2, 16), r"shape \[2, 16\], its configuration asks for \[2, 12\]"),
        ("transformer.wte.weight", torch.ones(64, 64), "fewer rows"),
        ("transformer.wte.weight", torch.ones(64), "expected is a matrix"),
    ],
)
def test_tensors_of_no_nanochat_are_refused(name: str, tensor: torch.Tensor, said: str, tmp_path: Path) -> None:
    made.tokenizer(tmp_path)
    model = made.save(tmp_path / "base_checkpoints" / "d3", made.state_dict() | {name: tensor}, made.settings())
    with pytest.raises(CheckpointError, match=said):
        read(model)


def test_conversations_are_as_it_was_tuned_with(tmp_path: Path) -> None:
    """A system message begins the first message of the user, and `<|assistant_end|>` ends an answer."""
    files = read(made.base_directory(tmp_path)).tokenizer
    conversation = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Who?")]
    messages = [{"role": role, "content": content} for role, content in conversation]
    assert files.chat_template is not None
    template = compile_template(files.chat_template)
    assert render(template, {"messages": messages, "add_generation_prompt": True}) == (
        "<|bos|><|user_start|>Be brief.\n\nHi<|user_end|><|assistant_start|>Hello.<|assistant_end|>"
        "<|user_start|>Who?<|user_end|><|assistant_start|>"
    )
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert [*files.end_tokens] == [tokenizer.token_to_id(text) for text in ("<|bos|>", "<|assistant_end|>")]
    with pytest.raises(Exception, match="roles system, user and assistant"):
        render(template, {"messages": [{"role": "tool", "content": ""}], "add_generation_prompt": True})


def test_texts_begin_as_its_documents_do(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(read(made.base_directory(tmp_path)).tokenizer.tokenizer_json)
    plain = tokenizer.encode("the thing", add_special_tokens=False).ids
    assert tokenizer.encode("the thing").ids == [tokenizer.token_to_id("<|bos|>"), *plain]
    assert tokenizer.decode(plain) == "the thing"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "attention_bias": True, "final_logit_softcapping": None, "tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "intermediate_size": 96, "rms_norm_eps": 1e-3},
    ],
)
def test_transformers_form_is_computed_as_transformers_does(changes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import NanoChatConfig, NanoChatForCausalLM

    sizes = {"vocab_size": made.VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = {"intermediate_size": 256, "max_position_embeddings": 128, "initializer_range": 0.2}
    torch.manual_seed(5)
    model = NanoChatForCausalLM(NanoChatConfig(**sizes | settings | changes)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(from_pickle(made.tokenizer(tmp_path / "own")).tokenizer_json, encoding="utf-8")
    tokens = made.text(100)
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    checkpoint = read(tmp_path)
    assert_same_logits(prefill(decoder_of(checkpoint, tmp_path), tokens), expected)
    assert_same_logits(checkpoint.reference(np.array(tokens)), expected)
