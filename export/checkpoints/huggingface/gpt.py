"""Hugging Face's GPTs with layer norms: GPT-2, GPT-Neo, GPT-J, CodeGen, GPT-NeoX, Phi, OPT and GPTBigCode.

Each function makes of config.json, tensors and tokenizer what the graph computes, its weights, and its reference.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from export.checkpoint import Architecture, CheckpointError, TokenizerFiles, shown
from export.checkpoints import gpt2 as of_gpt2
from export.checkpoints.canonical import same
from export.checkpoints.huggingface.common import prefixed, require_head
from export.checkpoints.huggingface.gpt_layout import (
    Keys,
    Names,
    Settings,
    Tensors,
    architecture,
    canonical,
    flag,
    read_rope,
    require_even,
    stacked,
    weights,
)
from export.checkpoints.rotary import half_split, rotary
from export.checkpoints.settings import checked, demand, whole
from export.checkpoints.tensors import Weights
from export.references import gpt as references
from export.references.gpt2 import Gpt2
from export.references.transformer import Transformer

Read = tuple[Architecture, Weights, Transformer]

OLDER = Keys("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "layer_norm_epsilon", "activation_function")
OF_GPT_NEO = Keys("num_layers", "num_heads", epsilon="layer_norm_epsilon", activation="activation_function")
OF_OPT = Keys(mlp_width="ffn_dim", activation="activation_function")
CODEGEN_PARTS = 4  # it was trained on four devices, which shared its heads

GPT2 = Names(
    prefix="transformer.",
    embedding="transformer.wte",
    layer="transformer.h.{}.",
    attention_norm="ln_1",
    qkv=("attn.c_attn",),
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    mlp=("mlp.c_fc", "mlp.c_proj"),
    final_norm="transformer.ln_f",
    buffers=(".attn.bias", ".attn.masked_bias"),
)
GPT_NEO = replace(
    GPT2,
    qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
    attention_out="attn.attention.out_proj",
    without_bias=("attn.attention.q_proj",),
    buffers=(".attn.attention.bias", ".attn.attention.masked_bias"),
)
GPT_J = replace(
    GPT2,
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_out="attn.out_proj",
    without_bias=("attn.q_proj", "attn.qkv_proj", "attn.out_proj"),
    mlp_norm=None,
    mlp=("mlp.fc_in", "mlp.fc_out"),
    buffers=(".attn.bias", ".attn.masked_bias", ".attn.causal_mask", ".attn.embed_positions"),
)
CODEGEN = replace(GPT_J, qkv=("attn.qkv_proj",))
GPT_NEOX = Names(
    prefix="gpt_neox.",
    embedding="gpt_neox.embed_in",
    layer="gpt_neox.layers.{}.",
    attention_norm="input_layernorm",
    qkv=("attention.query_key_value",),
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    final_norm="gpt_neox.final_layer_norm",
    buffers=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
)
PHI = Names(
    prefix="model.",
    embedding="model.embed_tokens",
    layer="model.layers.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.dense",
    mlp_norm=None,
    mlp=("mlp.fc1", "mlp.fc2"),
    final_norm="model.final_layernorm",
    buffers=(".rotary_emb.inv_freq",),
)
OPT = Names(
    prefix="model.",
    embedding="model.decoder.embed_tokens",
    layer="model.decoder.layers.{}.",
    attention_norm="self_attn_layer_norm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    mlp=("fc1", "fc2"),
    final_norm="model.decoder.final_layer_norm",
)


def gpt2(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    demand(config, "scale_attn_weights", True)
    demand(config, "scale_attn_by_inverse_layer_idx", False)
    demand(config, "add_cross_attention", False)
    demand(config, "activation_function", "gelu_new", "gelu", "gelu_fast", "gelu_pytorch_tanh")
    shape, rows = architecture(config, tokenizer, OLDER, "gelu_new")
    tensors = prefixed(tensors, GPT2.prefix)
    require_head(config, tensors, "lm_head.weight", "transformer.wte.weight", tied=True)
    mapped = of_gpt2.weights(tensors, shape, rows=rows, biases=True, conv1d=True)
    return shape, mapped, Gpt2.of(tensors, shape, conv1d=True, exact_gelu=shape.activation == "gelu")


def gpt_neo(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    shape, rows = architecture(config, tokenizer, OF_GPT_NEO, "gelu_new", attention_scale=1.0)
    windows = _windows(config, shape.layers)
    shape, tensors = replace(shape, layer_window=windows), prefixed(tensors, GPT_NEO.prefix)
    out = canonical(tensors, shape, GPT_NEO, rows)
    out.positions("transformer.wpe.weight")
    run = references.GptNeo.of(tensors, shape, activation=shape.activation, windows=windows)
    return shape, weights(out, config, GPT_NEO, tied=True), run


def _windows(config: Settings, layers: int) -> tuple[int | None, ...]:
    """`attention_types` is a list of [kinds, how often]: [[["global", "local"], 12]] for 24 layers."""
    types = config.get("attention_types") or [[["global", "local"], 12]]
    window, kinds = whole(config, "window_size", 256), list[Any]()
    for entry in types if isinstance(types, list) else ():
        match entry:
            case [list(names), int(count)] if 0 < len(names) * count <= layers:
                kinds += names * count
    if len(kinds) != layers or not all(kind in ("global", "local") for kind in kinds):
        raise CheckpointError(
            f"its configuration says attention_types = {shown(types)}, allowed are `global` and `local` for {layers} layers"
        )
    return tuple(window if kind == "local" else None for kind in kinds)


def gptj(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    return _gptj(config, tensors, tokenizer, GPT_J, references.GptJ)


def codegen(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    if whole(config, "n_head") % CODEGEN_PARTS:
        raise CheckpointError(f"its configuration says n_head = {config['n_head']}, allowed are multiples of {CODEGEN_PARTS}")
    return _gptj(config, tensors, tokenizer, CODEGEN, references.CodeGen)


def _gptj(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles, names: Names, kind: type[references.GptJ]) -> Read:
    shape, rows = architecture(config, tokenizer, OLDER, "gelu_new", parallel=True)
    turned = require_even(whole(config, "rotary_dim", 64), shape.head_dim)
    shape = replace(shape, rotary=(rotary(shape.head_dim, 10000.0, turned=turned),))
    turn = partial(half_split, turned=turned, neighbours=True)
    apart = stacked(CODEGEN_PARTS, shape.heads, turn, order=(0, 2, 1))
    tensors = prefixed(tensors, names.prefix)
    out = canonical(tensors, shape, names, rows, turn=turn, arrange=apart)
    return (
        shape,
        weights(out, config, names, tied=False),
        kind.of(tensors, shape, activation=shape.activation, turned=turned),
    )


def gpt_neox(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    parallel = flag(config, "use_parallel_residual", True)
    shape, rows = architecture(config, tokenizer, Keys(), "gelu", parallel=parallel)
    rope, settings = read_rope(config, shape.head_dim, theta="rotary_emb_base", part="rotary_pct", default_part=0.25)
    shape = replace(shape, rotary=(rope.rotary,))
    head = "lm_head" if "lm_head.weight" in tensors else "embed_out"
    without_bias = () if flag(config, "attention_bias", True) else (*GPT_NEOX.qkv, GPT_NEOX.attention_out)
    names = replace(GPT_NEOX, head=head, without_bias=without_bias)
    tensors = prefixed(tensors, names.prefix, head=f"{names.head}.")
    arrange = stacked(shape.heads, shape.heads, partial(half_split, turned=rope.turned))
    out = canonical(tensors, shape, names, rows, arrange=arrange)
    settings |= {"activation": shape.activation, "parallel": parallel}
    return shape, weights(out, config, names, tied=False), references.GptNeoX.of(tensors, shape, **settings)


def phi(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    demand(config, "qk_layernorm", False, None)
    shape, rows = architecture(config, tokenizer, Keys(), "gelu_new", parallel=True)
    rope, settings = read_rope(config, shape.head_dim, theta="rope_theta", part="partial_rotary_factor", default_part=0.5)
    kv_heads = whole(config, "num_key_value_heads", shape.heads)
    shape, tensors = checked(replace(shape, kv_heads=kv_heads, rotary=(rope.rotary,))), prefixed(tensors, PHI.prefix)
    out = canonical(tensors, shape, PHI, rows, turn=partial(half_split, turned=rope.turned))
    settings |= {"activation": shape.activation}
    return shape, weights(out, config, PHI, tied=False), references.Phi.of(tensors, shape, **settings)


def opt(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    demand(config, "do_layer_norm_before", True)  # OPT 350M alone has its norms behind
    demand(config, "word_embed_proj_dim", whole(config, "hidden_size"), None)
    shape, rows = architecture(config, tokenizer, OF_OPT, "relu")
    tensors = prefixed(tensors, OPT.prefix)
    linears = (OPT.qkv[0], OPT.attention_out, *OPT.mlp)
    names = replace(OPT, without_bias=() if flag(config, "enable_bias", True) else linears)
    out = canonical(tensors, shape, names, rows, affine=flag(config, "layer_norm_elementwise_affine", True))
    out.positions("model.decoder.embed_positions.weight", offset=2)
    final_norm = not config.get("_remove_final_layer_norm")
    if not final_norm:  # of models that were tuned with transformers before 4.20.1
        out.sources = {name: source for name, source in out.sources.items() if not name.startswith("final_norm.")}
    run = references.Opt.of(tensors, shape, activation=shape.activation, final_norm=final_norm)
    return shape, weights(out, config, OPT, tied=True), run


def gpt_bigcode(config: Settings, tensors: Tensors, tokenizer: TokenizerFiles) -> Read:
    demand(config, "scale_attn_weights", True)
    demand(config, "add_cross_attention", False)
    shape, rows = architecture(config, tokenizer, OLDER, "gelu_pytorch_tanh")
    tensors, one_key = prefixed(tensors, GPT2.prefix), flag(config, "multi_query", True)
    shape = replace(shape, kv_heads=1 if one_key else shape.heads)
    by_head = stacked(shape.heads, shape.heads, lambda rows, heads: rows)
    out = canonical(tensors, shape, GPT2, rows, arrange=same if one_key else by_head)
    out.positions("transformer.wpe.weight")
    return (
        shape,
        weights(out, config, GPT2, tied=True),
        references.GptBigCode.of(tensors, shape, activation=shape.activation),
    )
