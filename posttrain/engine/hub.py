"""The calls to a model hub, all of them: a repository is opened, a directory is uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from posttrain.errors import HubError


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A repository that was opened."""

    api: HfApi
    repository: str  # with its owner
    revision: str | None

    @classmethod
    def open(cls, name: str, *, token: str | None, private: bool | None, revision: str | None) -> Hub:
        """The repository of this name, made where there is none, and its branch. Raises HubError."""
        api = HfApi(token=token)
        try:
            repository = api.create_repo(name, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
        except Exception as error:
            raise HubError(
                f"the repository {name!r} cannot be opened on the hub ({reason(error)}). Log in with `hf auth login`, "
                "or set HF_TOKEN to a token that may write, or leave push_to_hub out"
            ) from error
        return cls(api=api, repository=repository, revision=revision)

    def upload(
        self, directory: Path, *, message: str, inside: str | None = None, without: Sequence[str] = ()
    ) -> Future[Any]:
        """Uploads the directory in the background, into the directory `inside` of the repository or its root."""
        return self.api.upload_folder(
            repo_id=self.repository,
            folder_path=directory,
            path_in_repo=inside,
            commit_message=message,
            revision=self.revision,
            ignore_patterns=list(without) or None,
            run_as_future=True,
        )


def reason(error: BaseException) -> str:
    """What the hub said, in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
