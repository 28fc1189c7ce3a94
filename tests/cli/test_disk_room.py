"""A disk that is too small is foreseen, before anything is loaded."""

from pathlib import Path

import pytest

from obsdiff import PruningConfig
from obsdiff.cli import disk_room
from obsdiff.cli.disk_room import least_bytes
from obsdiff.cli.main import main
from obsdiff.pipelines.folder import open_folder


def test_outputs_take_their_denoisers_and_the_rest_once(sd3_folder):
    folder = open_folder(Path(sd3_folder))
    whole = sum(tensors.size for tensors in folder.components.values())
    own = folder.components["transformer"].size
    half, structured = PruningConfig(), PruningConfig(pattern="structured", sparsity=0.25)
    assert least_bytes(folder, []) == 0
    assert least_bytes(folder, [half]) == whole
    assert least_bytes(folder, [half, half]) == whole + own
    assert least_bytes(folder, [structured]) == whole - round(0.25 * own)
    target = PruningConfig(pattern="structured", target_macs=0.8)
    assert least_bytes(folder, [target]) == pytest.approx(whole - 0.8 * own, abs=1)
    single = least_bytes(folder, [PruningConfig(dtype="float16")])
    assert least_bytes(folder, [PruningConfig(dtype="float32")]) == 2 * single


def test_a_full_disk_is_one_line_and_nothing_is_written(
    sd3_folder, prompts_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(disk_room, "free_disk", lambda place: 1000)
    output = tmp_path / "new" / "out"
    argv = ["prune", sd3_folder, "--output", str(output), "--prompts", prompts_file]
    assert main([*argv, "--sparsity", "0.3", "0.5"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "2 pruned pipelines take at least" in err
    assert "0 MB free" in err
    assert not output.parent.exists()
