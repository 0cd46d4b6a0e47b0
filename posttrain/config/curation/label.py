"""What `posttrain data label` is told."""

from __future__ import annotations

from posttrain.config.base import option
from posttrain.config.curation.inputs import DATA, DataFields

_PAGE = "The page"


class LabelCommand(DataFields):
    """`posttrain data label`: people judge answers on a page."""

    export: bool = option(False, "Write what was judged so far, and open no page.", group=DATA)
    annotator: str | None = option(
        None, "Who judges; none = the page asks. Others add &annotator=NAME to its address.", group=_PAGE
    )
    port: int = option(8765, "Port of the page; 0 = any that is free.", group=_PAGE, ge=0, le=65535)
    host: str = option(
        "127.0.0.1", "Address to listen on. With any other than this, the network can reach the page.", group=_PAGE
    )
    seed: int = option(0, "Seed that shuffles the answers, for each person in another way.", group=_PAGE, ge=0)

    @classmethod
    def parse_field(cls, name: str, text: str) -> object:
        """As for every field, but a name is what was written."""
        return text if name in ("annotator", "host") else super().parse_field(name, text)
