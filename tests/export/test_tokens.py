"""The tokens of a Hugging Face directory are those of transformers, wherever its files name added and special tokens."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer

from export.checkpoint import CheckpointError
from export.checkpoints import read
from export.text.token_check import TEXT, require_own_tokens
from export.text.tokenizer_source import from_directory
from tests.export import samples

ADDED_JSON = Path(__file__).parents[3] / "shared" / "data" / "faults" / "gpt2-addedjson"
TEXTS = (
    "<|user|>hi<|bot|>[SEP] there",
    "a <|user|> b  <|bot|>\n[SEP]c<tool>d < tool > e[PAD][MASK]<|endoftext|>the tide",
    "<|im_start|>user\nthe tide <|im_end|> goes out <s>x</s>",
    TEXT.read_text(encoding="utf-8")[:1500],
    "<|user|>_name <tool>xy <tool>x <|user|> \n\n <|bot|>\n\n\n<|bot|>",
    "  two  spaces\n你好 é e\u0301 don't 1234",
)
SMALL = samples.small_tokenizer()
COUNT = SMALL.get_vocab_size()

Files = dict[str, Any]


def token(content: str, **flags: bool) -> dict[str, Any]:
    every = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": content, "special": True} | every | flags


def decoder(*tokens: dict[str, Any]) -> dict[str, Any]:
    return {str(COUNT + place): one for place, one in enumerate(tokens)}


USER, BOT = token("<|user|>"), token("<|bot|>", special=False, normalized=True)
AS_OBJECT = token("[MASK]", lstrip=True) | {"__type": "AddedToken"}
CONFIG = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
WHOLE = {"tokenizer_class": "TokenizersBackend"}  # transformers takes tokenizer.json as it is then
DIRECTORIES: dict[str, Files] = {
    "added_tokens.json": {"added_tokens.json": {"<|user|>": COUNT, "<|bot|>": COUNT + 1, "[SEP]": COUNT + 2}},
    "added_tokens.json, some special": {
        "added_tokens.json": {"<|bot|>": COUNT + 1, "[SEP]": COUNT + 2, "<|user|>": COUNT},
        "special_tokens_map.json": {"sep_token": "[SEP]", "additional_special_tokens": ["<|user|>"]},
        "tokenizer_config.json": {"additional_special_tokens": ["<|user|>"]},
    },
    "added_tokens_decoder": {"tokenizer_config.json": {"added_tokens_decoder": decoder(USER, BOT, token("[SEP]"))}},
    "flags": {
        "tokenizer_config.json": {
            "added_tokens_decoder": decoder(
                token("<|user|>", lstrip=True), token("<|bot|>", rstrip=True), token("tool", single_word=True, special=False)
            )
        }
    },
    "a decoder outweighs the older files": {
        "tokenizer_config.json": {"added_tokens_decoder": decoder(USER)},
        "added_tokens.json": {"<|bot|>": COUNT},
        "special_tokens_map.json": {"sep_token": "the"},
    },
    "a special token of the vocabulary": {"special_tokens_map.json": {"bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}},
    "a token of the vocabulary that is added": {"tokenizer_config.json": {"extra_special_tokens": ["Ġthe", "tide"]}},
    "a special token with no id": {"tokenizer_config.json": {"pad_token": "[PAD]", "mask_token": AS_OBJECT}},
    "special tokens as objects": {"special_tokens_map.json": {"eos_token": token("<|im_end|>", rstrip=True)}},
    "one begins with another, in an earlier pass": {
        "added_tokens.json": {"<|user|>": COUNT, "<|user|>_name": COUNT + 1},
        "special_tokens_map.json": {"additional_special_tokens": ["<|user|>"]},
        "tokenizer_config.json": {"additional_special_tokens": ["<|user|>"]},
    },
    "the longest must be a single word": {
        "tokenizer_config.json": {"added_tokens_decoder": decoder(token("<tool>x", single_word=True), token("<tool>"))}
    },
    "blanks that two could take": {
        "tokenizer_config.json": {
            "added_tokens_decoder": decoder(token("<|user|>", rstrip=True), token("<|bot|>", lstrip=True), token("\n\n"))
        }
    },
    "add_bos_token": {"tokenizer_config.json": {"add_bos_token": True, "bos_token": "<|im_start|>"}},
    "add_eos_token": {"tokenizer_config.json": {"add_eos_token": True, "eos_token": "<|im_end|>"}},
    "add_bos_token and add_eos_token": {
        "tokenizer_config.json": {
            "add_bos_token": True,
            "bos_token": "<|im_start|>",
            "add_eos_token": True,
            "eos_token": "<|im_end|>",
        }
    },
    "no eos_token": {"tokenizer_config.json": {"eos_token": None}},
    "model_specific_special_tokens": {"tokenizer_config.json": {"model_specific_special_tokens": {"image_token": "<|user|>"}}},
    "add_prefix_space": {"tokenizer_config.json": {"add_prefix_space": True, "added_tokens_decoder": decoder(USER)}},
}


def write(directory: Path, files: Files, *, whole: bool = False) -> Path:
    """vocab.json and merges.txt, or tokenizer.json, with ``files`` beside them."""
    directory.mkdir()
    SMALL.save(str(directory / "tokenizer.json")) if whole else SMALL.model.save(str(directory))
    for name, content in ({"config.json": {"model_type": "gpt2"}, "tokenizer_config.json": {}} | files).items():
        content = CONFIG | content | (WHOLE if whole else {}) if name == "tokenizer_config.json" else content
        (directory / name).write_text(json.dumps(content))
    return directory


def compare(directory: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(directory)
    files = from_directory(directory, rows=COUNT + 20)
    ours = Tokenizer.from_str(files.tokenizer_json)
    for text in TEXTS:
        for with_special in (True, False):
            ids = theirs(text, add_special_tokens=with_special)["input_ids"]
            assert ours.encode(text, add_special_tokens=with_special).ids == ids, text
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert dict(files.special_tokens) == theirs.special_tokens_map
    require_own_tokens(files)


@pytest.mark.parametrize("whole", [False, True], ids=["vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("kind", DIRECTORIES)
def test_added_and_special_tokens_are_those_of_transformers(kind: str, whole: bool, tmp_path: Path) -> None:
    compare(write(tmp_path / "model", DIRECTORIES[kind], whole=whole))


def test_the_words_of_qwen2_are_those_of_transformers(tmp_path: Path) -> None:
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder(USER, BOT)}
    compare(write(tmp_path / "model", {"tokenizer_config.json": config, "config.json": {"model_type": "qwen2"}}))


@pytest.mark.skipif(not ADDED_JSON.exists(), reason="the directory with added_tokens.json lies outside the repository")
def test_a_directory_with_added_tokens_beside_its_vocabulary_gives_transformers_tokens() -> None:
    files = read(ADDED_JSON).tokenizer
    ids = AutoTokenizer.from_pretrained(ADDED_JSON)("<|user|>hi<|bot|>[SEP] there")["input_ids"]
    assert Tokenizer.from_str(files.tokenizer_json).encode("<|user|>hi<|bot|>[SEP] there").ids == ids
    require_own_tokens(files)


def test_ids_with_gaps_between_them_are_kept(tmp_path: Path) -> None:
    files = from_directory(write(tmp_path / "model", {"added_tokens.json": {"<|user|>": COUNT + 7}}))
    assert Tokenizer.from_str(files.tokenizer_json).encode("<|user|>", add_special_tokens=False).ids == [COUNT + 7]
    require_own_tokens(files)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"added_tokens_decoder": {"5": token("<|user|>")}}},
        {"added_tokens.json": {"<|user|>": 5}},
        {"added_tokens.json": {"<|user|>": COUNT, "<|bot|>": COUNT}},
        {"vocab.json": SMALL.get_vocab() | {"<|user|>": 5}},
    ],
)
def test_an_id_that_two_tokens_have_is_refused(files: Files, tmp_path: Path) -> None:
    """The library would keep one of them, another one at each start of Python."""
    with pytest.raises(CheckpointError, match=f"its files give both '.+' and '.+' the id ({COUNT}|5)$"):
        from_directory(write(tmp_path / "model", files))


def test_a_token_with_two_ids_is_refused(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": decoder(USER, token("<|user|>", lstrip=True))}
    with pytest.raises(CheckpointError, match=f"give '<.user.>' both the id {COUNT} and the id {COUNT + 1}"):
        from_directory(write(tmp_path / "model", {"tokenizer_config.json": config}))


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_directory_that_names_no_class_has_the_special_tokens_of_its_model_type(model_type: str, tmp_path: Path) -> None:
    directory = write(tmp_path / "model", {"config.json": {"model_type": model_type}}, whole=True)
    (directory / "tokenizer_config.json").unlink()
    compare(directory)


@pytest.mark.parametrize("class_name", ["GPT2Tokenizer", "LlamaTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("kind", ["added_tokens.json", "special tokens as objects", "add_eos_token", "no eos_token"])
def test_a_class_besides_tokenizer_json_changes_it_as_in_transformers(class_name: str, kind: str, tmp_path: Path) -> None:
    files = DIRECTORIES[kind]
    config = files.get("tokenizer_config.json", {}) | {"tokenizer_class": class_name}
    directory = write(tmp_path / "model", files, whole=True)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    compare(directory)


def test_no_character_of_real_text_may_vanish(tmp_path: Path) -> None:
    files = from_directory(write(tmp_path / "model", {}))
    document = json.loads(files.tokenizer_json)
    merged = {character for pair in document["model"]["merges"] for character in "".join(pair)}
    unmerged = next(
        character for character in TEXT.read_text(encoding="utf-8") if character.isascii() and character not in merged
    )
    document["model"]["vocab"]["gone"] = document["model"]["vocab"].pop({"\n": "Ċ"}.get(unmerged, unmerged))
    with pytest.raises(CheckpointError, match="its tokenizer does not do what its files say"):
        require_own_tokens(replace(files, tokenizer_json=json.dumps(document)))


def test_many_added_tokens_are_compared_in_no_time(tmp_path: Path) -> None:
    added = {f"<|audio_{number:05}|>": COUNT + number for number in range(5000)}
    files = from_directory(write(tmp_path / "model", {"added_tokens.json": added}))
    began = time.process_time()
    require_own_tokens(files)
    assert time.process_time() - began < 3  # the square of their number took 40 s


def test_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    files = from_directory(write(tmp_path / "model", {"added_tokens.json": {"<|user|>": COUNT + 7}}, whole=True))
    with pytest.raises(CheckpointError, match=f"the id {COUNT + 7}, its tokenizer .{COUNT}."):
        require_own_tokens(files)


def test_a_class_whose_words_are_cut_in_another_way_is_refused_by_name(tmp_path: Path) -> None:
    directory = write(tmp_path / "model", {"tokenizer_config.json": {"tokenizer_class": "WhisperTokenizer"}})
    with pytest.raises(CheckpointError, match="its tokenizer_class is 'WhisperTokenizer'; vocab.json and merges.txt are"):
        from_directory(directory)


def test_a_text_is_neither_cut_nor_padded_whatever_tokenizer_json_says(tmp_path: Path) -> None:
    directory = write(tmp_path / "model", {"tokenizer_config.json": {"pad_token": "<|endoftext|>"}}, whole=True)
    cutting = samples.small_tokenizer()
    cutting.enable_truncation(3)
    cutting.enable_padding(length=8, pad_token="<|endoftext|>")
    cutting.save(str(directory / "tokenizer.json"))
    compare(directory)


def lower(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def another_merge(tokenizer: Tokenizer) -> None:
    document = json.loads(tokenizer.to_str())
    document["model"]["merges"] = document["model"]["merges"][1:]
    tokenizer.model = Tokenizer.from_str(json.dumps(document)).model


def another_script(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Replace("ш", "щ")


@pytest.mark.parametrize("spoil", [lower, another_merge, another_script])
def test_an_export_compares_tokens_on_real_text_with_the_tokenizers_own_files(
    spoil: Callable[[Tokenizer], None], tmp_path: Path
) -> None:
    files = from_directory(write(tmp_path / "model", DIRECTORIES["flags"]))
    require_own_tokens(files)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    spoil(tokenizer)
    with pytest.raises(CheckpointError, match="its tokenizer does not do what its files say"):
        require_own_tokens(replace(files, tokenizer_json=tokenizer.to_str()))


def test_links_lead_to_the_directorys_own_files_alone(tmp_path: Path) -> None:
    """As in Hugging Face's cache, and nowhere else: a template is readable to everyone who may ask the model."""
    repository = tmp_path / "models--someone--tide"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    samples.hf_llama(tmp_path / "made")
    for number, file in enumerate(sorted((tmp_path / "made").iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert read(snapshot).tokenizer.end_tokens == (0, 2)
    (tmp_path / "secret").write_text("{{ 'a secret' }}")
    for name in ("chat_template.jinja", "vocab.json", "model.safetensors", "added_tokens.json", "generation_config.json"):
        kept = (snapshot / name).readlink() if (snapshot / name).is_symlink() else None
        (snapshot / name).unlink(missing_ok=True)
        (snapshot / name).symlink_to(tmp_path / "secret")
        with pytest.raises(CheckpointError, match=f"its {name} is a link to a file outside of the directory"):
            read(snapshot)
        (snapshot / name).unlink()
        if kept:
            (snapshot / name).symlink_to(kept)
    (blobs / "secret").symlink_to(tmp_path / "secret")  # a link to a link
    (snapshot / "chat_template.jinja").symlink_to(blobs / "secret")
    with pytest.raises(CheckpointError, match="is a link to a file outside"):
        read(snapshot)
    (snapshot / "chat_template.jinja").unlink()
    shutil.rmtree(repository / "blobs")
    (repository / "blobs").symlink_to(tmp_path)  # a cache of somebody who would be believed
    (snapshot / "chat_template.jinja").symlink_to(Path("../../blobs/secret"))
    with pytest.raises(CheckpointError, match="is a link to a file outside"):
        read(snapshot)


def test_a_link_in_a_directory_that_names_a_tokenizer_leads_nowhere_else(tmp_path: Path) -> None:
    directory = write(tmp_path / "tokenizer", {}, whole=True)
    (tmp_path / "secret").write_text("{{ 'a secret' }}")
    (directory / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"its chat_template\.jinja is a link to a file outside"):
        from_directory(directory)
