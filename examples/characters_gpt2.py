"""A GPT-2 over single characters, saved as nanoGPT saves: the checkpoint, and the table of characters beside it in meta.pkl.

    .venv/bin/python -m examples.characters_gpt2 log/characters/ckpt.pt --text your.txt
    MODEL_CHECKPOINT=log/characters/ckpt.pt make serve

nanoGPT's own `data/shakespeare_char/prepare.py` and `train.py` leave the same two files, if at two places: both are found.
"""

import argparse
import pickle
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from examples.dolly_gpt2 import GPT, train

VERSE = """The tide comes in, the tide goes out,
the gate stands still and has no doubt:
it shuts by night, it shuts by day,
and keeps the hungry sea away.
"""


@dataclass
class ModelArguments:
    vocab_size: int
    n_layer: int = 3
    n_head: int = 4
    n_embd: int = 64
    block_size: int = 128
    bias: bool = True
    dropout: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="where the checkpoint goes, such as log/characters/ckpt.pt")
    parser.add_argument("--text", type=Path, help="what is learned (default: four lines about a tide gate)")
    parser.add_argument("--steps", type=int, default=600, help="at most (default: %(default)s)")
    options = parser.parse_args()
    torch.manual_seed(1337)
    text = options.text.read_text("utf-8") if options.text else VERSE * 3
    characters = sorted(set(text))
    stoi = {character: number for number, character in enumerate(characters)}
    numbers = torch.tensor([stoi[character] for character in text])
    model = GPT(ModelArguments(vocab_size=len(characters)), gelu="none")
    windows = numbers.unfold(0, model.config.block_size + 1, 8)  # one every 8 characters
    loss = train(model, windows[:, :-1], windows[:, 1:], options.steps)
    options.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "model": model.state_dict(),
        "model_args": asdict(model.config),
        "iter_num": options.steps,
        "best_val_loss": loss,
    }
    torch.save(checkpoint, options.checkpoint)
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": stoi}
    options.checkpoint.with_name("meta.pkl").write_bytes(pickle.dumps(meta))
    print(f"{options.checkpoint}: {len(characters)} characters, loss {loss:.3f}")


if __name__ == "__main__":
    main()
