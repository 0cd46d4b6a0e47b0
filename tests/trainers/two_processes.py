"""One of two processes that share each step's rows; started by torchrun."""

import gc
import json
import os
import sys

import jobs
import torch


def main(method, output_dir):
    share = 2 if method.startswith(("grpo", "ppo", "critic")) else 1  # half of what one process takes
    options = {"per_device_train_batch_size": share, "num_train_epochs": 2, "dropout": 0.0}
    if method in ("kto", "bco", "offline"):
        options["eval_strategy"] = "epoch"
    if not method.endswith("-lora"):
        options["save_strategy"] = "no"
    result = jobs.main(method, output_dir, **options)
    if os.environ["RANK"] == "0":
        print("RESULT " + json.dumps(result))
    gc.collect()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
