"""A Llama of random weights that costs next to nothing: 2 layers of 64, a vocabulary of bytes and ASCII, as GGUF in fp32."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

LAYERS, WIDTH, MLP_WIDTH, HEADS, CONTEXT = 2, 64, 128, 2, 1024
SPREAD, EMBEDDING_SPREAD = 0.15, 0.5  # standard deviations of the weights
SEED = 1
UNKNOWN, BEGIN, END = 0, 1, 2


def tiny_gguf(path: Path) -> Path:
    """Writes the model to ``path``, which ends in `.gguf`. Nothing is done where the file exists."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    writer = GGUFWriter(unfinished, "llama")
    writer.add_name("tiny")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP_WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    vocabulary_size = _add_vocabulary(writer)
    _add_weights(writer, vocabulary_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    unfinished.rename(path)
    return path


def _add_vocabulary(writer: GGUFWriter) -> int:
    """Returns the number of tokens: three special ones, all bytes, and the printable characters of ASCII."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(0x21, 0x7F))]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types + [TokenType.NORMAL] * (len(tokens) - len(types)))
    writer.add_unk_token_id(UNKNOWN)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    return len(tokens)


def _add_weights(writer: GGUFWriter, vocabulary_size: int) -> None:
    random = np.random.default_rng(SEED)

    def add(name: str, *shape: int, spread: float = SPREAD) -> None:
        writer.add_tensor(f"{name}.weight", (spread * random.standard_normal(shape)).astype(np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))

    add("token_embd", vocabulary_size, WIDTH, spread=EMBEDDING_SPREAD)
    add("output", vocabulary_size, WIDTH)
    add_norm("output_norm")
    for layer in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{part}", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate", MLP_WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_up", MLP_WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_down", WIDTH, MLP_WIDTH)
        add_norm(f"blk.{layer}.attn_norm")
        add_norm(f"blk.{layer}.ffn_norm")
