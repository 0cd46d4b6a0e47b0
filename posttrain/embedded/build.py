"""Make the embedded model again: text, tokenizer, pretraining, model card.

python -m posttrain.embedded.build --output my-model
python -m posttrain.embedded.build --output larger --tokens 200000000 --hidden-size 256 --layers 8 --device cuda
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from posttrain.embedded import pretraining_text, world
from posttrain.embedded.card import code_digest, digest, write_card
from posttrain.embedded.tokenizer import TRAINING_DOCUMENTS, save_tokenizer, train_tokenizer


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from posttrain.embedded.training import Settings

    parser = argparse.ArgumentParser(prog="python -m posttrain.embedded.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("embedded-model"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    for field in fields(Settings):
        kind = type(field.default)
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help=f"(default: {field.default})"
        )
    return parser.parse_args(argv)


def build(argv: Sequence[str] | None = None) -> Path:
    """The folder of the finished model, built as the command line says."""
    arguments = _arguments(argv)

    import torch

    from posttrain.embedded.training import Settings, held_out_loss, pretrain

    torch.set_num_threads(arguments.threads)
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    print(f"writing {TRAINING_DOCUMENTS:,} documents and training the tokenizer on them", flush=True)
    documents = list(itertools.islice(pretraining_text.documents(settings.seed), TRAINING_DOCUMENTS))
    tokenizer = train_tokenizer(documents)
    save_tokenizer(tokenizer, output)

    print(f"pretraining on {settings.tokens:,} tokens, {settings.steps:,} steps", flush=True)
    started = time.perf_counter()
    model, _ = pretrain(
        settings,
        tokenizer,
        device=arguments.device,
        report=lambda line: print(line, flush=True),
    )
    minutes = (time.perf_counter() - started) / 60
    loss = held_out_loss(model, settings, tokenizer)
    model.save_pretrained(output)
    write_card(
        output,
        {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocabulary": tokenizer.get_vocab_size(),
            "facts": len(world.facts()),
            "documents": TRAINING_DOCUMENTS,
            "device": arguments.device,
            "threads": arguments.threads,
            "minutes": round(minutes, 1),
            "torch": torch.__version__,
            "held_out_loss": round(loss, 4),
            "settings": asdict(settings),
            "hashes": {
                "code": code_digest(),
                "data": digest(documents),
                "tokenizer": digest([(output / "tokenizer.json").read_text()]),
            },
        },
    )
    print(f"held-out loss {loss:.4f}; the model is in {output}", flush=True)
    return output


if __name__ == "__main__":
    build()
