"""One of two processes of a training with a gate, started by torchrun: says what was decided, and its weights."""

import gc
import json
import os
import sys

import torch
from jobs import CONVERSATIONS, trainer, weights_hash


def main(folder):
    job = trainer(
        "sft", f"{folder}/run", rows=CONVERSATIONS, dropout=0.0, per_device_train_batch_size=1, num_train_epochs=1,
        save_steps=2, gate=f"{folder}/gate.yaml", drift_steps=2,
    )  # fmt: skip
    job.train()
    decided = {"verdict": job.decision.verdict, "promoted": job.decision.promoted, "weights": weights_hash(job.model)}
    print(f"RESULT {os.environ['RANK']} " + json.dumps(decided), flush=True)
    gc.collect()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
