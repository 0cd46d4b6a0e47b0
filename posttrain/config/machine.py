"""`MachineConfig`: number types, memory, compilation, processes and what a run says, with transformers' names."""

import logging
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from posttrain.config.base import Config, option

LogLevel = Literal["passive", "debug", "info", "warning", "error", "critical"]

_TYPES, _MEMORY, _COMPILED, _PROCESSES, _SAID = (
    "Machine and memory",
    "Machine and memory",
    "Compilation",
    "Several processes",
    "What is said",
)
SPLIT = "split_batches"  # what accelerator_config may hold
_MEANS_NOTHING = ("dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking", "use_configured_state")


class MachineConfig(Config):
    """How a run is computed; none of these fields changes what is trained but by rounding."""

    use_cpu: bool = option(False, "Keep to the CPU where there is a GPU.", group=_TYPES)
    bf16: bool | None = option(None, "Compute in bfloat16; none = the faster one, measured.", group=_TYPES)
    fp16: bool = option(
        False, "Compute in float16, the loss scaled by a power of two that follows overflows.", group=_TYPES
    )
    tf32: bool | None = option(
        None, "Whether CUDA may round float32 products to TF32; none = torch's choice.", group=_TYPES
    )
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = option(
        None, "Number type of the model's weights; none = chosen.", group=_TYPES
    )
    gradient_checkpointing: bool | None = option(
        None, "Recompute activations to save memory; none = chosen.", group=_MEMORY
    )
    gradient_checkpointing_kwargs: dict[str, Any] | None = option(
        None, "Passed to the model's activation_checkpointing_enable.", group=_MEMORY
    )
    max_tokens_per_pass: int | None = option(
        None,
        "Tokens of one forward pass; none = chosen. The result is the same whatever it is.",
        group=_MEMORY,
        ge=1,
    )
    auto_find_batch_size: bool = option(
        True, "Cut passes smaller when CUDA runs out of memory; false ends the run instead.", group=_MEMORY
    )
    torch_empty_cache_steps: int | None = option(
        None, "Steps after which CUDA's unused memory is given back; none = never.", group=_MEMORY, ge=1
    )
    num_threads: int | None = option(None, "CPU threads; none = torch's choice.", group=_MEMORY, ge=1)
    trust_remote_code: bool = option(False, "Run Python code that comes with the model.", group=_MEMORY)
    model_init_kwargs: dict[str, Any] | None = option(
        None, "Passed to from_pretrained when the model is named, not handed over.", group=_MEMORY
    )
    use_cache: bool | None = option(
        None, "Written into the model's configuration as use_cache; none = as the model has it.", group=_MEMORY
    )
    full_determinism: bool = option(
        False, "Only algorithms that give the same bits each time, or an error.", group=_MEMORY
    )

    torch_compile: bool = option(
        False, "Compile the model's body with torch.compile, with dynamic shapes.", group=_COMPILED
    )
    torch_compile_backend: str | None = option(
        None, "Backend of torch.compile; naming one switches compilation on; none = inductor.", group=_COMPILED
    )
    torch_compile_mode: str | None = option(
        None, "Mode of torch.compile; naming one switches compilation on.", group=_COMPILED
    )

    average_tokens_across_devices: bool = option(
        True, "Divide a step by the trained tokens of all processes; false averages their means.", group=_PROCESSES
    )
    accelerator_config: dict[str, Any] | None = option(
        None,
        "split_batches: true makes per_device_train_batch_size the rows of all processes together.",
        group=_PROCESSES,
    )
    ddp_backend: Literal["nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl"] | None = option(
        None, "How processes exchange gradients; none = nccl on GPUs, gloo on CPUs.", group=_PROCESSES
    )
    ddp_timeout: int = option(
        43200, "Seconds that a process waits for the others; one saves while they wait.", group=_PROCESSES, ge=1
    )
    ddp_find_unused_parameters: bool | None = option(
        None, "Look for parameters that a pass did not use; none = no.", group=_PROCESSES
    )
    ddp_bucket_cap_mb: int | None = option(
        None, "Megabytes of gradients exchanged at once; none = torch's choice.", group=_PROCESSES, ge=1
    )
    ddp_broadcast_buffers: bool | None = option(
        None, "Take the first process's buffers at every pass; none = yes.", group=_PROCESSES
    )
    ddp_static_graph: bool | None = option(
        None, "Promise that every pass uses the same parameters; none = no.", group=_PROCESSES
    )

    log_level: LogLevel = option(
        "passive", "What the first process says: warning and above keep it from progress.", group=_SAID
    )
    log_level_replica: LogLevel = option("warning", "The same for the other processes.", group=_SAID)
    disable_tqdm: bool | None = option(None, "No progress bar; none = a bar on a terminal only.", group=_SAID)
    skip_memory_metrics: bool = option(True, "False adds to the metrics what memory the run took.", group=_SAID)
    debug: list[Literal["underflow_overflow"]] = option(
        [], "underflow_overflow: stop at the first module whose numbers are not finite.", group=_SAID
    )

    @field_validator("debug", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value

    @property
    def compiles(self) -> bool:
        """Whether the model's body is compiled: asked for, or a backend or mode named, as transformers has it."""
        return self.torch_compile or self.torch_compile_backend is not None or self.torch_compile_mode is not None

    @property
    def splits_batches(self) -> bool:
        """Whether per_device_train_batch_size counts the rows of all processes."""
        return bool((self.accelerator_config or {}).get(SPLIT))

    def speaks(self, rank: int, level: int = logging.INFO) -> bool:
        """Whether the process says messages of such a level. `passive` is info on the first process."""
        name = self.log_level if rank == 0 else self.log_level_replica
        asked = logging.INFO if name == "passive" else logging.getLevelNamesMapping()[name.upper()]
        return level >= asked

    def _settle(self) -> None:
        super()._settle()
        if self.fp16 and self.bf16 is None:
            self.__dict__["bf16"] = False

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.fp16 and self.bf16:
            yield "fp16", "fp16=True and bf16=True are two number types to compute in; keep one"
        if self.fp16 and self.dtype in ("float16", "bfloat16"):
            yield "fp16", f"fp16=True computes in float16 and keeps weights in float32; leave dtype={self.dtype!r} out"
        for key in self.accelerator_config or {}:
            if key in _MEANS_NOTHING or key == SPLIT:
                continue
            yield (
                "accelerator_config",
                f"accelerator_config[{key!r}]: only {SPLIT} changes something here; "
                f"{', '.join(_MEANS_NOTHING)} are taken and change nothing",
            )
