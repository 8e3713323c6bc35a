"""How a byte-level BPE in a GGUF file cuts a text into words: by the name that `tokenizer.ggml.pre` has for it.

llama.cpp's llama-vocab.cpp tells which names there are, and what each cuts; the patterns are those of the models' own
tokenizer.json, which llama.cpp approximates in places.
"""

from export.text.word_patterns import (
    BAILING,
    BLOOM,
    DEEPSEEK3,
    DEEPSEEK_IDEOGRAPHS,
    GPT2,
    GPT4O,
    LLAMA3,
    QWEN2,
    QWEN35,
    SEED_CODER,
    TEKKEN,
)

PRE_TOKENIZERS: dict[str, tuple[str, ...]] = {  # patterns that cut one after the other
    **dict.fromkeys(
        (
            "gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0",
            "mellum", "modern-bert", "exaone4", "trillion", "granite-docling",
        ),
        (GPT2,),
    ),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), (r"\p{N}", GPT2)
    ),
    **dict.fromkeys(
        (
            "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "dbrx",
            "smaug-bpe", "chatglm-bpe", "glm4", "glm5",
        ),
        (LLAMA3,),
    ),
    **dict.fromkeys(
        ("qwen2", "stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "solar-open", "grok-2"), (QWEN2,)
    ),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), (GPT4O,)),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), (BAILING,)),
    **dict.fromkeys(
        ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"),
        (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3),
    ),
    **dict.fromkeys(("bloom", "gpt3-finnish", "poro-chat"), (BLOOM,)),
    "viking": (BLOOM, r"\p{N}"),
    "qwen35": (QWEN35,),
    "seed-coder": (SEED_CODER,),
    "tekken": (TEKKEN,),
    "deepseek-llm": (
        r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", DEEPSEEK_IDEOGRAPHS, r"\p{N}+",
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_IDEOGRAPHS, r"\p{N}"),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}  # fmt: skip
BEGINS_WITH_BOS = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken",
}  # fmt: skip
IGNORE_MERGES = BEGINS_WITH_BOS | {"glm4", "glm5"}  # a word that is one token is that token, whatever the merges say
