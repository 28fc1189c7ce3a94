"""The prune command's own lines."""

import pytest

from obsdiff.cli.prune import AS_STORED, IN_FLOAT32, format_notes


@pytest.mark.parametrize(
    ("device", "stored", "dtype", "lines"),
    [
        ("cpu", "bfloat16", None, [IN_FLOAT32]),
        (None, "bfloat16", None, [IN_FLOAT32]),
        ("cpu", "float32", None, []),
        ("cpu", "bfloat16", "bfloat16", []),
        ("cuda", "float32", None, [AS_STORED]),
        ("cuda", "float32", "float16", []),
        ("cuda", "bfloat16", None, []),
    ],
)
def test_a_slower_number_format_than_needed_is_said(device, stored, dtype, lines):
    assert format_notes(device, {"transformer": stored, "vae": stored}, dtype) == lines
