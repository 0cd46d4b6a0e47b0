"""docs/fields.md is what the configurations say, and every test that it names is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from observed_fields import OBSERVED, OBSERVED_LOSSES

from scripts import fields_of_trl as trl_s
from scripts.fields_table import CONFIGS, NOTES, PAGE, counts, fate_of, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_the_one_that_the_configurations_give():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m scripts.fields_table"


@pytest.mark.parametrize("kind", ["SFT", "DPO"])
def test_nine_in_ten_of_the_fields_that_a_cpu_can_show_are_honoured(kind):
    found = counts(kind)
    assert found.honoured / found.rest >= 0.9


def test_every_test_that_is_named_is_there():
    named = {*OBSERVED.values(), *(test for tests in OBSERVED_LOSSES.values() for test in tests.values())}
    for test in named:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_every_note_is_about_a_field():
    assert set(NOTES) <= {*trl_s.SFT_FIELDS, *trl_s.DPO_FIELDS}


def test_what_is_observed_is_a_field_or_another_name_of_one():
    known = {name for config, _, _ in CONFIGS.values() for name in (*config.model_fields, *config.renamed)}
    assert set(OBSERVED) <= known
    for config, _, _ in CONFIGS.values():
        assert fate_of(config, "router_aux_loss_coef").status.startswith("refused, but for")


def test_the_list_is_that_of_trl():
    trl = pytest.importorskip("trl", reason="trl is not installed; it comes with the test extra")
    assert trl.__version__.startswith(trl_s.VERSION + ".")
    for theirs, fields in ((trl.SFTConfig, trl_s.SFT_FIELDS), (trl.DPOConfig, trl_s.DPO_FIELDS)):
        assert sorted(theirs.__dataclass_fields__) == sorted(fields)
    text = trl.DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    assert all(f"'{name}'" in text for name in trl_s.DPO_LOSSES)
    assert text.count("`'") == len(trl_s.DPO_LOSSES)
    assert trl.SFTConfig.__dataclass_fields__["loss_type"].metadata["choices"] == trl_s.SFT_LOSSES
    assert set(trl_s.APART) <= {*trl_s.SFT_FIELDS, *trl_s.DPO_FIELDS}
