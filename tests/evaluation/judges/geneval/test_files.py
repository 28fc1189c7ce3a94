"""Detector, tasks and CLIP are checked before anything is drawn."""

import json
import shutil

import pytest

from obsdiff.errors import UserError
from obsdiff.evaluation.judges.files import Judges, find_judges
from obsdiff.evaluation.judges.geneval import files
from obsdiff.evaluation.judges.geneval.files import require_backbone
from obsdiff.runtime import extras


def find(detector, tmp_path, prompts, clip=None):
    return find_judges({"geneval": detector, "clip": clip}, tmp_path, prompts=prompts)


def test_a_detector_comes_with_its_tasks(box_detector, mask_detector, clip, metadata, tmp_path):
    for detector in (box_detector, mask_detector):
        judges = find(detector, tmp_path, metadata, clip)
        assert judges == Judges(geneval=detector, clip=clip, tasks=metadata)
        assert "tasks" not in judges.record()


def test_what_does_not_fit_is_one_line(box_detector, clip, metadata, tmp_path):
    with pytest.raises(UserError, match=r"expected GenEval's evaluation_metadata\.jsonl as prom"):
        find(box_detector, tmp_path, None, clip)
    with pytest.raises(UserError, match="expected a CLIP, which tells the colours"):
        find(box_detector, tmp_path, metadata)
    with pytest.raises(UserError, match="geneval: expected a detector of objects"):
        find(clip, tmp_path, metadata, clip)
    first = metadata.read_text().splitlines()[0]
    metadata.write_text(first.replace('"bench"', '"unicorn"'))
    with pytest.raises(UserError, match=r"found none of 1 classes of .*: unicorn"):
        find(box_detector, tmp_path, metadata, clip)
    metadata.write_text(first)
    assert find(box_detector, tmp_path, metadata).clip is None  # no colours are asked for


def test_a_detector_without_names_or_preprocessing_is_refused(box_detector, metadata, tmp_path):
    bare = shutil.copytree(box_detector, tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text())
    del config["id2label"]
    (bare / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="expected the names of the classes in id2label, found no"):
        find(bare, tmp_path, metadata)
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"expected preprocessor_config\.json or processor"):
        find(bare, tmp_path, metadata)


def test_the_hub_is_not_asked_about_a_backbone(tmp_path, monkeypatch):
    for config in (
        {"model_type": "yolos"},
        {"model_type": "rt_detr", "backbone": None},
        {"model_type": "rt_detr", "backbone": "a", "backbone_config": {"model_type": "resnet"}},
    ):
        require_backbone(tmp_path, config)
    for config in (
        {"model_type": "rt_detr", "backbone": "microsoft/resnet-50"},
        {"model_type": "detr", "backbone": "microsoft/resnet-50", "use_timm_backbone": False},
        {"model_type": "detr", "backbone": "resnet50", "backbone_kwargs": {"out_indices": [1]}},
    ):
        with pytest.raises(UserError, match=r"found its name alone, '.*resnet"):
            require_backbone(tmp_path, config)
    detr = {"model_type": "detr", "backbone": "resnet50", "backbone_config": None}
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install timm"):
        require_backbone(tmp_path, detr)
    monkeypatch.setattr(files, "find_spec", lambda name: name)
    require_backbone(tmp_path, detr)


def test_mask2former_needs_scipy(mask_detector, clip, metadata, tmp_path, monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "geneval", ("no_such_package",))
    with pytest.raises(UserError, match=r"pip install 'obsdiff\[geneval\]'"):
        find(mask_detector, tmp_path, metadata, clip)
