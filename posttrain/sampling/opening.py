"""A sampler over the model that was named: loaded here, or behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.sampling.endpoint import EndpointSampler

if TYPE_CHECKING:
    from posttrain.config.sampling import SamplingFields
    from posttrain.sampling.local import LocalSampler


def open_sampler(
    model: str, endpoint: str | None, fields: SamplingFields, *, note: Callable[[str], None]
) -> LocalSampler | EndpointSampler:
    """What answers for the model, as the fields say. `note` is told what was chosen for it."""
    return open_model(model, fields, note=note) if endpoint is None else open_endpoint(endpoint, model, fields)


def open_endpoint(endpoint: str, model: str, fields: SamplingFields) -> EndpointSampler:
    """The model of that name behind the endpoint."""
    rates = ("concurrency", "requests_per_minute", "tokens_per_minute")
    given: dict[str, Any] = {name: getattr(fields, name) for name in rates if hasattr(fields, name)}
    return EndpointSampler(
        endpoint,
        model,
        api_key_variable=fields.api_key_variable,
        timeout_s=fields.timeout_s,
        max_retries=fields.max_retries,
        extra_body=fields.extra_body,
        **given,
    )


def open_model(model: str, fields: SamplingFields, *, note: Callable[[str], None]) -> LocalSampler:
    """The model in the directory or of that name, with its tokenizer made ready."""
    import torch

    from posttrain.models.loading import load_model, load_tokenizer, prepare_tokenizer
    from posttrain.models.quiet import no_progress_bars
    from posttrain.sampling.local import LocalSampler

    trust = fields.trust_remote_code
    tokenizer = load_tokenizer(model, trust_remote_code=trust)
    accelerated = torch.cuda.is_available() and not fields.use_cpu
    with no_progress_bars():
        loaded = load_model(
            model,
            dtype=fields.dtype or ("auto" if accelerated else "float32"),
            device="cpu" if fields.use_cpu else None,
            trust_remote_code=trust,
        )
    for chosen in prepare_tokenizer(tokenizer, loaded):
        note(f"{Path(model).name}: {chosen}")
    sampler = LocalSampler(loaded, tokenizer, max_rows=getattr(fields, "max_rows", None))
    if sampler.note:
        note(f"{Path(model).name}: {sampler.note}")
    return sampler
