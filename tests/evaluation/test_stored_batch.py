"""Batches of pictures on disk: whole, or drawn again."""

import os

import pytest
import torch
from PIL import Image

from obsdiff.evaluation.stored_batch import read_batch, write_batch
from obsdiff.runtime.file_hashing import file_hashes

PATHS = ["images/00-dense/000.png", "images/00-dense/001.png"]
LATENTS = "work/000000.safetensors"


@pytest.fixture
def batch(tmp_path):
    images = [Image.new("RGB", (8, 8), (i, 0, 200)) for i in range(2)]
    tensors = {"latents": torch.randn(2, 4, 2, 2).transpose(2, 3), "flaws": torch.zeros(2)}
    write_batch(tmp_path / LATENTS, tensors, images, tmp_path, PATHS)
    return tensors


def test_a_batch_is_read_as_it_was_written(tmp_path, batch):
    found = read_batch(tmp_path / LATENTS, tmp_path, PATHS)
    assert found.keys() == batch.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in batch.items())
    assert sorted(file_hashes(tmp_path)) == sorted([*PATHS, LATENTS])


def flip(raw: bytes) -> bytes:
    return raw[:-2] + bytes([raw[-2] ^ 255]) + raw[-1:]


@pytest.mark.parametrize("name", [*PATHS, LATENTS])
@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: raw[: len(raw) // 2], flip, None],
    ids=["empty", "cut", "flipped", "gone"],
)
def test_a_damaged_file_voids_its_batch(tmp_path, batch, name, damage):
    file = tmp_path / name
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    assert read_batch(tmp_path / LATENTS, tmp_path, PATHS) is None


def test_a_batch_counts_for_its_own_pictures_alone(tmp_path, batch):
    assert read_batch(tmp_path / LATENTS, tmp_path, PATHS[::-1]) is not None
    assert read_batch(tmp_path / LATENTS, tmp_path, PATHS[:1]) is None
    first, second = (tmp_path / path for path in PATHS)
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert read_batch(tmp_path / LATENTS, tmp_path, PATHS) is None


def test_a_pipe_is_no_picture(tmp_path, batch):
    (tmp_path / PATHS[0]).unlink()
    os.mkfifo(tmp_path / PATHS[0])
    assert read_batch(tmp_path / LATENTS, tmp_path, PATHS) is None
