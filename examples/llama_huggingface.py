"""A small Llama with its own tokenizer and chat template, trained with transformers, saved as a Hugging Face directory.

    .venv/bin/python -m examples.llama_huggingface log/tide-llama    # needs transformers
    MODEL_CHECKPOINT=log/tide-llama make serve

A fine-tuned GPT-2 or Llama that `save_pretrained` has written is served by the same command.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from examples.dolly_gpt2 import RECORDS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BATCH, LEARNING_RATE, LEARNED = 12, 2e-3, 0.03  # records, -, nats a token at which nothing is left to learn


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet))
    special = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2]}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=CHAT_TEMPLATE, **special)


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def example(tokenizer: PreTrainedTokenizerFast, record: dict[str, str]) -> dict[str, torch.Tensor]:
    """Of a conversation only the answer is learned; -100 is transformers' word for what is not."""
    question = "\n".join(filter(None, [record["context"], record["instruction"]]))
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": record["response"]}]
    asked = len(tokenizer.encode(tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)))
    tokens = torch.tensor(tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False)))
    return {"input_ids": tokens, "labels": torch.cat([torch.full((asked,), -100), tokens[asked:]])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the model goes, such as log/tide-llama")
    parser.add_argument("--records", type=Path, default=RECORDS, help="a .jsonl of instruction, context and response")
    parser.add_argument("--steps", type=int, default=400, help="at most (default: %(default)s)")
    options = parser.parse_args()
    torch.manual_seed(1337)
    records = [json.loads(line) for line in options.records.read_text("utf-8").splitlines()]
    tokenizer = make_tokenizer([f"{record['instruction']} {record['context']} {record['response']}" for record in records])
    model = make_model(tokenizer)
    examples = [example(tokenizer, record) for record in records]
    loss = train(model, examples, options.steps)
    model.save_pretrained(options.directory)
    tokenizer.save_pretrained(options.directory)
    print(f"{options.directory}: {len(records)} records, loss {loss:.3f}")


def train(model: LlamaForCausalLM, examples: list[dict[str, torch.Tensor]], steps: int) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    epoch = -(-len(examples) // BATCH)  # steps
    losses = [float("inf")]
    for step in range(steps):
        if step % epoch == 0:
            order = torch.randperm(len(examples)).tolist()
        chosen = [examples[number] for number in order[step % epoch * BATCH :][:BATCH]]
        pad = {"input_ids": 0, "labels": -100}
        rows = {name: [one[name] for one in chosen] for name in pad}
        batch = {name: torch.nn.utils.rnn.pad_sequence(rows[name], batch_first=True, padding_value=pad[name]) for name in pad}
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses = [*losses, loss.item()][-epoch:]
        if max(losses) < LEARNED:
            break
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
