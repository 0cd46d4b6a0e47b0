"""One side of a comparison, in a process of its own: `python -m benchmarks.worker SPEC`.

It builds the model, the rows and the trainer of one library and calls `train()`, or samples. After each step it
reports and stops until it is told to go on, so that the sides take turns and never run at the same time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from benchmarks.cases import MODELS, VOCABULARY, Case, Side, common, make_rows
from benchmarks.memory import peak_bytes, reset_peak, resident_bytes

Sample = Callable[[list[list[int]], int], int]  # (prompts, seed) -> tokens written


class Baton:
    """The line to the process that starts us: reports go out, the permission to go on comes in."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = self._cpu = 0.0

    def report(self, event: str, **values: Any) -> None:
        self._out.write(json.dumps({"event": event, **values}) + "\n")
        self._out.flush()

    def wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit(0)  # the other end has gone
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def step_done(self, **values: Any) -> None:
        seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
        self.report("step", seconds=seconds, cpu_seconds=cpu, **values)
        self.wait()


def build_model(name: str, seed: int, *, scores: bool = False) -> Any:
    """A random fp32 model of the case; with `scores` one that gives a score in place of tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = dict(MODELS[name])
    special = {"bos_token_id": None, "eos_token_id": VOCABULARY - 1, "pad_token_id": VOCABULARY - 1}
    config = AutoConfig.for_model(settings.pop("model_type"), max_position_embeddings=2048, **special, **settings)
    torch.manual_seed(seed)
    if scores:
        config.num_labels = 1
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def build_tokenizer() -> Any:
    """A tokenizer with one token per word, so that the lengths of the case are exact."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCABULARY - 1)} | {"<eos>": VOCABULARY - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def train(case: Case, side: Side, baton: Baton) -> None:
    """Trains with the side's library, waiting after every step."""
    import copy

    import torch
    from datasets import Dataset
    from torch.optim.optimizer import register_optimizer_step_post_hook

    model = build_model(case.model, case.seed, scores=case.method == "reward")
    torch.rand(64, 64) @ torch.rand(64, 64)  # the matrix library's own buffers are nobody's
    baseline = resident_bytes()
    reset_peak()
    if side.package == "trl":
        import trl as library
    else:
        import posttrain as library  # type: ignore[no-redef]
    method = side.method or case.method
    name = "Reward" if method == "reward" else method.upper()
    config_class, trainer_class = (getattr(library, f"{name}{kind}") for kind in ("Config", "Trainer"))
    with tempfile.TemporaryDirectory() as directory:
        settings = {**common(case), **side.settings}
        if method == "ppo":
            del settings["beta"]  # the KL is in the rewards
        args = config_class(output_dir=directory, max_steps=case.steps, **settings)
        extra: dict[str, Any] = {}
        reward = EvenTokens()
        if case.method == "grpo":
            extra["reward_funcs"] = reward
        if side.value_model:
            extra["value_model"] = build_model(case.model, case.seed + 1)
        if case.method == "dpo" and side.package == "trl" and not args.precompute_ref_log_probs:
            extra["ref_model"] = copy.deepcopy(model)  # what it would load from disk, had the model come from there
        trainer = trainer_class(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(make_rows(case)),
            processing_class=build_tokenizer(),
            **extra,
        )
        hook = register_optimizer_step_post_hook(lambda *_: baton.step_done(tokens=reward.taken()))
        baton.report("ready")
        baton.wait()
        trainer.train()
        hook.remove()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    baton.report(
        "done",
        losses=[entry["loss"] for entry in logs],
        grad_norms=[float(entry["grad_norm"]) for entry in logs],
        entropies=[entry["entropy"] for entry in logs if "entropy" in entry],
        baseline_bytes=baseline,
        peak_bytes=peak_bytes() - baseline,
        parameter_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        threads=torch.get_num_threads(),
    )


class EvenTokens:
    """The share of even token ids as a reward, which leaves no group without a signal; counts what it is shown."""

    __name__ = "even_tokens"

    def __init__(self) -> None:
        self._seen = 0

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        self._seen += sum(len(ids) for ids in completion_ids)
        return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]

    def taken(self) -> int:
        """Tokens of the completions since this was last asked."""
        seen, self._seen = self._seen, 0
        return seen


def generate(case: Case, side: Side, baton: Baton) -> None:
    """Samples from the model with the side's library, waiting after every step."""
    import torch

    model, tokenizer = build_model(case.model, case.seed).eval(), build_tokenizer()
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in make_rows(case)]
    torch.rand(64, 64) @ torch.rand(64, 64)
    baseline = resident_bytes()
    reset_peak()
    sample = (_sampler if side.package == "posttrain" else _generator)(case, side, model, tokenizer)
    baton.report("ready")
    baton.wait()
    for step in range(case.steps):
        baton.step_done(tokens=sample(prompts[step * case.rows_per_step : (step + 1) * case.rows_per_step], step))
    baton.report("done", peak_bytes=peak_bytes() - baseline, threads=torch.get_num_threads())


def _sampler(case: Case, side: Side, model: Any, tokenizer: Any) -> Sample:
    from posttrain.sampling.local import LocalSampler
    from posttrain.types import SamplingParams

    sampler, params = LocalSampler(model, tokenizer, **side.settings), SamplingParams(max_tokens=case.max_completion)

    def sample(prompts: list[list[int]], seed: int) -> int:
        groups = sampler.sample(prompts, params, count=case.generations, seed=seed)
        return sum(len(completion.tokens or ()) for group in groups for completion in group)

    return sample


def _generator(case: Case, side: Side, model: Any, tokenizer: Any) -> Sample:
    import torch
    from transformers import GenerationConfig

    end, at_once = tokenizer.eos_token_id, side.settings["rows"]
    config = GenerationConfig(
        max_new_tokens=case.max_completion, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=end,
        pad_token_id=end,
    )  # fmt: skip

    def sample(prompts: list[list[int]], seed: int) -> int:
        torch.manual_seed(seed)
        rows = [prompt for prompt in sorted(prompts, key=len) for _ in range(case.generations)]
        count = 0
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            width = max(map(len, batch))
            ids = torch.tensor([[end] * (width - len(row)) + row for row in batch])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:]
            ended = (written == end).cumsum(dim=1) - (written == end).long()  # ends before a token
            count += int((ended == 0).sum())
        return count

    return sample


def measure_limit(case: Case, baton: Baton) -> None:
    """Times bare fp32 matrix products: square ones that fit the cache, one as wide as the model's head."""
    import torch

    hidden, vocabulary = MODELS[case.model]["hidden_size"], MODELS[case.model]["vocab_size"]
    shapes = {"square": (1024, 1024, 1024), "head": (512, hidden, vocabulary)}
    work = {name: (torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)) for name, (m, k, n) in shapes.items()}
    baton.report("ready")
    baton.wait()
    for _ in range(case.steps):
        rates = {}
        for name, (left, right, out) in work.items():
            flops = 2 * left.shape[0] * left.shape[1] * right.shape[1]
            repeats, spent = 0, 0.0
            while spent < 0.2:
                started = time.perf_counter()
                torch.mm(left, right, out=out)
                spent += time.perf_counter() - started
                repeats += 1
            rates[name] = flops * repeats / spent
        baton.step_done(flops_per_s=rates)
    baton.report("done")


def main() -> None:
    """Runs the side described by the JSON argument. What libraries print goes to the log, not to the line."""
    spec = json.loads(sys.argv[1])
    case, side = Case(**spec["case"]), Side(**spec["side"])
    out = os.fdopen(os.dup(1), "w")
    log = os.open(Path(spec["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    baton = Baton(out)
    if side.package == "limit":
        measure_limit(case, baton)
    elif case.method == "generation":
        generate(case, side, baton)
    else:
        train(case, side, baton)


if __name__ == "__main__":
    main()
