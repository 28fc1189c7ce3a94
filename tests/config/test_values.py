"""The reading of single values, and their recorded form."""

import pytest

from obsdiff.config import PruningConfig
from obsdiff.config.values import did_you_mean, parse_blocks, parse_group, parse_share


def test_blocks():
    assert parse_blocks("3-25") == (3, 25)
    assert parse_blocks("7") == (7, 7)
    assert parse_blocks(None) is None


def test_groups():
    assert parse_group("2:4") == (2, 4)
    assert parse_group("structured") is None


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("50%", 0.5),
        ("50 %", 0.5),
        (" 33.3% ", 0.333),
        ("0.5%", 0.005),
        (".5%", 0.005),
        ("7.%", 0.07),
        ("-10%", -0.1),
        ("half", "half"),
        ("%", "%"),
        ("5%%", "5%%"),
        (0.3, 0.3),
        (None, None),
    ],
)
def test_percentages(written, share):
    assert parse_share(written) == share


@pytest.mark.parametrize(
    "name",
    ["sparsity", "target_latency", "target_parameters", "target_macs", "target_bytes"],
)
def test_a_percentage_is_recorded_as_a_share(name):
    config = PruningConfig(pattern="structured", **{name: "30%"})
    assert config == PruningConfig(pattern="structured", **{name: 0.3})
    assert config.to_dict()[name] == 0.3


@pytest.mark.parametrize(
    ("written", "recorded"),
    [
        ("fp16", "float16"),
        ("half", "float16"),
        ("float16", "float16"),
        ("bf16", "bfloat16"),
        ("fp32", "float32"),
        ("float", "float32"),
        (None, None),
    ],
)
def test_number_formats_are_recorded_by_their_full_names(written, recorded):
    assert PruningConfig(dtype=written).to_dict()["dtype"] == recorded


def test_suggestions():
    assert did_you_mean("wandda", ("wanda", "dsnot")) == "; did you mean wanda?"
    assert did_you_mean("xyz", ("wanda", "dsnot")) == ""
    assert did_you_mean(5, ("wanda",)) == ""
