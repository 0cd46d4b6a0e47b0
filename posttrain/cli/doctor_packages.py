"""The packages that posttrain needs and could use, with their versions, as its own metadata names them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

# what is not in the metadata, since its installation depends on the machine: package -> what it is for
_BESIDE = {
    "bitsandbytes": "8-bit optimisers and quantised weights on a GPU",
    "tensorboard": "report_to=tensorboard",
    "wandb": "report_to=wandb",
    "trackio": "report_to=trackio",
    "mlflow": "report_to=mlflow",
}
_FOR = {  # extra -> what it is for
    "math": "the reward math_answer",
    "instructions": "the rewards instruction_following and json_valid",
    "label": "posttrain data label",
    "lm-eval": "tasks of lm-evaluation-harness",
    "test": "the tests",
    "lint": "work on posttrain itself",
}


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package and whether it is there."""

    name: str
    version: str | None  # None: not installed
    needed: str  # the versions that will do, such as ">=2.8"; "" for any
    use: str  # of an optional one; "" where it must be there
    install: str  # the command

    @property
    def old(self) -> bool:
        """Whether it is there in a version that will not do."""
        from packaging.specifiers import SpecifierSet

        return self.version is not None and not SpecifierSet(self.needed).contains(self.version, prereleases=True)


def packages() -> list[Package]:
    """Those that must be there, then the optional ones, each once."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("posttrain") or ()]
    except PackageNotFoundError:
        wanted = []  # run from its source: nothing says what belongs to it
    found: dict[str, Package] = {}
    for requirement in wanted:
        extra = str(requirement.marker).rpartition("==")[2].strip(" '\"") if requirement.marker else ""
        if requirement.name == "posttrain" or requirement.name in found:
            continue
        found[requirement.name] = Package(
            name=requirement.name,
            version=installed(requirement.name),
            needed=str(requirement.specifier),
            use=_FOR.get(extra, extra),
            install=f'pip install "posttrain[{extra}]"' if extra else f'pip install -U "{requirement}"',
        )
    for name, use in _BESIDE.items():
        if name not in found:
            found[name] = Package(name=name, version=installed(name), needed="", use=use, install=f"pip install {name}")
    return list(found.values())


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
