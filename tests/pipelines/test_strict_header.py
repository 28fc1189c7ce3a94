"""Headers of safetensors files: refused wherever the library refuses them, and a little more."""

import copy
import json
import random
import struct
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from obsdiff.errors import UserError
from obsdiff.pipelines.headers import read_header
from obsdiff.pipelines.strict_header import BITS, parse_header

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
AFTER = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}
TWO = {"a": F32, "b": AFTER}


def text(header: Any) -> bytes:
    return header if isinstance(header, bytes) else json.dumps(header).encode()


def written(file, header: Any, data: bytes):
    raw = text(header)
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return file


def library_reads(file) -> bool:
    try:
        with safe_open(file, "pt") as opened:
            opened.keys()
    except (SafetensorError, OSError):
        return False
    return True


WRONG = {
    "overlaps another": {"a": F32, "b": F32},
    "leaves a hole": {"a": F32, "b": {**AFTER, "data_offsets": [8, 12]}},
    "a hole before": {"a": AFTER},
    "'a' occurs twice": b'{"a": %s, "a": %s}' % (text(F32), text(AFTER)),
    "'shape' occurs twice": b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}',
    "__metadata__ has something": {"__metadata__": {"format": 5}, **TWO},
    "__metadata__": {"__metadata__": [], **TWO},
    "unknown format 'F33'": {"a": {**F32, "dtype": "F33"}},
    "unknown format '7'": {"a": {**F32, "dtype": 7}},
    "4 bytes, which its shape": {"a": {**F32, "shape": [2]}},
    "a shape that no tensor has": {"a": {**F32, "shape": [0, 10**30], "data_offsets": [0, 0]}},
    "a shape": {"a": {**F32, "shape": [1.0]}},
    "shape that": {"a": {**F32, "shape": [True]}},
    "that no tensor has": {"a": {**F32, "shape": [-1]}},
    "no tensor": {"a": {**F32, "shape": 1}},
    "pair of data_offsets": {"a": {**F32, "data_offsets": [0, 4, 4]}},
    "has -4 bytes": {"a": {**F32, "data_offsets": [4, 0]}},
    "lacks dtype, shape": {"a": {"dtype": "F32"}},
    "lacks": {"a": None},
    "no JSON object": ["a"],
    "no Unicode": b'{"\\ud800": %s}' % text(F32),
    "is no JSON": b'{"a": %s' % text(F32),
    "NaN is no JSON": b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}',
    "no JSON (": b"\xff\xfe",
    "expected a tensor's name": {"a" * 2001: F32},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_named(words, tmp_path):
    file = written(tmp_path / "x.safetensors", WRONG[words], bytes(8))
    with pytest.raises(UserError) as error:
        read_header(file)
    assert words in str(error.value)
    assert str(file) in str(error.value)


def test_data_that_no_tensor_covers_is_refused(tmp_path):
    for size in (7, 9):
        file = written(tmp_path / "x.safetensors", TWO, bytes(size))
        with pytest.raises(UserError, match="cut off or damaged"):
            read_header(file)


@pytest.mark.parametrize("dtype", BITS)
def test_every_format_of_the_library_is_known_with_its_size(dtype, tmp_path):
    info = {"dtype": dtype, "shape": [16], "data_offsets": [0, 2 * BITS[dtype]]}
    file = written(tmp_path / "x.safetensors", {"a": info}, bytes(2 * BITS[dtype]))
    assert read_header(file) == {"a": info}
    assert library_reads(file)


def test_a_file_of_the_library_is_read():
    raw = save({"a": torch.zeros(2, 3), "b": torch.zeros(0), "c": torch.zeros(())}, {"x": "y"})
    (length,) = struct.unpack("<Q", raw[:8])
    header, size = parse_header(raw[8 : 8 + length])
    assert {name: info["shape"] for name, info in header.items()} == {
        "a": [2, 3],
        "b": [0],
        "c": [],
    }
    assert size == 28


def mutated(rng: random.Random) -> Any:
    """A header with one to three changes of any kind at any depth."""
    header = copy.deepcopy({**TWO, "__metadata__": {"format": "pt"}})
    values = [0, 1, -1, 4, 8, 2**63, 1.0, True, None, "F16", "F32", "x", [], {}, [4, 8], [0, 4]]
    for _ in range(rng.randint(1, 3)):
        place, key = header, rng.choice(list(header) or ["a"])
        while isinstance(place.get(key), dict) and place[key] and rng.random() < 0.8:
            place = place[key]
            key = rng.choice(list(place))
        if rng.random() < 0.15:
            place.pop(key, None)
        elif isinstance(place.get(key), list) and place[key] and rng.random() < 0.7:
            place[key][rng.randrange(len(place[key]))] = rng.choice(values)
        else:
            place[rng.choice([key, "new"])] = copy.deepcopy(rng.choice(values))
    return header


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_the_library_refuses_is_read(seed, tmp_path):
    rng = random.Random(seed)
    for _ in range(40):
        header, size = mutated(rng), rng.choice([0, 4, 8])
        file = written(tmp_path / "x.safetensors", header, bytes(size))
        try:
            read_header(file)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert library_reads(file), header


@pytest.mark.slow
def test_a_header_of_many_names_is_read_in_seconds():
    entries = ", ".join(
        f'"{i}": {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}' for i in range(50_000)
    )
    assert len(parse_header(f"{{{entries}}}".encode())[0]) == 50_000
