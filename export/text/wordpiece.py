"""BERT's `vocab.txt` (WordPiece) as `tokenizer.json`, for models that generate text: GPT2-Chinese, UER's."""

from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from export.checkpoint import CheckpointError, TokenizerFiles
from export.text import plain_wordpiece
from export.text.plain_wordpiece import LONGEST_WORD, Rules
from export.text.tokenizers import files, guarded
from export.text_file import read_text

NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
ENDS = ("[SEP]", "[CLS]")  # UER ends a text by [SEP]; GPT2-Chinese a paragraph by [SEP], a text by [CLS]
# Han, Kana, and the punctuation of both: no space beside them
WITHOUT_SPACES = "[\\p{Han}\u2014\u2018-\u201d\u2026\u3000-\u30ff\uff00-\uffef]"


def from_vocab(path: Path, rules: Rules | None = None) -> TokenizerFiles:
    """One token a line.

    A text is encoded without [CLS] and [SEP] around it: these models go on where it ends.
    """
    rules = rules or Rules()
    lines = read_text(path).removesuffix("\n").split("\n")
    vocabulary = {token: number for number, token in enumerate(lines)}
    special = {name: text for name, text in NAMES.items() if text in vocabulary}
    if "unk_token" not in special:
        raise CheckpointError(f"its {path.name} has no line [UNK], as BERT's vocabularies have")
    with guarded(f"its {path.name} makes no WordPiece tokenizer"):
        tokenizer = Tokenizer(
            models.WordPiece(vocabulary, unk_token=special["unk_token"], max_input_chars_per_word=LONGEST_WORD)
        )
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=rules.chinese_apart,
            strip_accents=rules.strip_accents,
            lowercase=rules.lower_case,
        )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special.values()])
    for_text(tokenizer)
    return replace(
        files(tokenizer, None, end_tokens(tokenizer)),
        special_tokens=special,
        added_tokens={text: vocabulary[text] for text in special.values()},
        reference=plain_wordpiece.encoder(vocabulary, special["unk_token"], rules),
    )


def end_tokens(tokenizer: Tokenizer) -> list[int]:
    return [number for text in ENDS if (number := tokenizer.token_to_id(text)) is not None]


def for_text(tokenizer: Tokenizer) -> None:
    """Adapts BERT's tokenizer to text generation: nothing around a prompt, no spaces beside Chinese characters."""
    tokenizer.post_processor = None
    beside = Regex(f" (?={WITHOUT_SPACES})|(?<={WITHOUT_SPACES}) ")
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece("##", cleanup=True), decoders.Fuse(), decoders.Replace(beside, "")]
    )
