"""The command `evaluate`: which component its runs have pruned."""

import json

import pytest

from obsdiff import UserError
from obsdiff.cli.evaluate import pruned_component
from obsdiff.pipelines.folder import Folder


def test_evaluate_reads_which_component_was_pruned(tmp_path):
    runs = {}
    for name, record in {
        "a": {"component": "transformer_2"},
        "b": {"component": "transformer_2"},
        "c": {},
        "d": {"component": "transformer"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "obsdiff.json").write_text(json.dumps(record))
        runs[name] = Folder(tmp_path / name, "WanPipeline", {})
    assert pruned_component({name: runs[name] for name in "abc"}) == "transformer_2"
    assert pruned_component({"c": runs["c"]}) is None
    with pytest.raises(UserError, match="found transformer and transformer_2"):
        pruned_component(runs)
