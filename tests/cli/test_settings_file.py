"""--from: settings of a run or of a file; flags win, and a hostile file is one line."""

import json

import pytest

from obsdiff import PruningConfig
from obsdiff.cli.arguments import parse
from obsdiff.cli.commands import config_of
from obsdiff.cli.main import main
from obsdiff.cli.targets import prune_targets
from obsdiff.errors import UserError


def configs(file, *flags: str) -> list[PruningConfig]:
    """The configs of a prune command with --from FILE."""
    args = parse(["prune", "emoji-sd3", "--output", "out", "--from", str(file), *flags])
    return [target.config for target in prune_targets(args)]


def record_of(tmp_path, config: PruningConfig, prompts=("a", "b")):
    """A record with these settings."""
    file = tmp_path / "obsdiff.json"
    values = config.to_dict() | {"device": "cuda:7"}
    file.write_text(json.dumps({"schema": 1, "config": values, "prompts": list(prompts)}))
    return file


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 0.3, "seed": 7, "include": ("*.ff.*",), "num_inference_steps": 3},
        {"pattern": "structured", "preset": "best", "target_macs": 0.8, "round_to": 16},
        {"pattern": "2:4", "permute": True, "tokens_per_column": "all"},
    ],
)
def test_a_record_repeats_its_settings_but_for_the_device(tmp_path, settings):
    config = PruningConfig(**settings)
    assert configs(record_of(tmp_path, config)) == [config]


def test_a_record_older_than_a_setting_repeats_what_it_ran_with(tmp_path):
    """Preset fast calibrated with all steps before it had a share of them."""
    file = record_of(tmp_path, PruningConfig(preset="fast", num_prompts=50))
    record = json.loads(file.read_text())
    assert record["config"].pop("step_share") == 0.5
    file.write_text(json.dumps(record))
    assert configs(file) == [PruningConfig(preset="fast", num_prompts=50, step_share=1.0)]


def test_flags_win_over_the_file_and_over_what_it_has_filled_in(tmp_path):
    file = record_of(tmp_path, PruningConfig(preset="best", sparsity=0.3, seed=7, damping=0.02))
    for flags, wanted in {
        ("--seed", "1"): {"preset": "best", "sparsity": 0.3, "seed": 1},
        ("--preset", "paper"): {"preset": "paper", "sparsity": 0.3, "seed": 7},
        ("--pattern", "2:4"): {"preset": "best", "pattern": "2:4", "seed": 7},
        ("--pattern", "structured", "--target-macs", "0.8"): {
            "preset": "best", "pattern": "structured", "target_macs": 0.8, "seed": 7,
        },
    }.items():  # fmt: skip
        assert configs(file, *flags) == [PruningConfig(damping=0.02, **wanted)]
    assert [c.sparsity for c in configs(file, "--sparsity", "0.1", "0.2")] == [0.1, 0.2]


FILES = {
    "a.toml": 'pattern = "2:4"\nnum-prompts = 8\ncompensation = false\ninclude = ["*.ff.*"]',
    "a.yaml": "pattern: 2:4\nnum-prompts: 8\ncompensation: no\ninclude:\n  - '*.ff.*'\nseed:",
    "a.json": '{"pattern": "2:4", "num_prompts": 8, "compensation": false, "include": "*.ff.*"}',
}


@pytest.mark.parametrize("name", FILES)
def test_settings_of_three_formats_are_the_same(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])
    settings = {"num_prompts": 8, "compensation": False, "include": ("*.ff.*",)}
    assert configs(tmp_path / name) == [PruningConfig(pattern="2:4", **settings)]


def test_a_file_may_have_several_sparsities(tmp_path):
    file = tmp_path / "a.yml"
    file.write_text("sparsity: [10%, 0.2]\npattern: structured\n")
    assert [config.sparsity for config in configs(file)] == [0.1, 0.2]
    with pytest.raises(UserError, match="sparsity"):
        config_of(parse(["inspect", "emoji-sd3", "--from", str(file)]))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.yaml", "&a [1]: *a", "reference"),
        ("a.yaml", "x: " + "[" * 5000, "can't be read"),
        ("a.yaml", "seed: 1\nseed: 2", "each once"),
        ("a.yaml", "seed: {a: 1}", "mapping"),
        ("a.yaml", "seed: many", "whole number"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "sparsity: 0.3"),
        ("a.yaml", "", "sparsity: 0.3"),
        ("a.toml", "seed = [1]", "seed"),
        ("a.toml", "seed = 1979-05-27", "seed"),
        ("a.toml", "seed = ", "can't be read"),
        ("a.toml", "spasity = 0.3", "did you mean sparsity"),
        ("a.toml", "#" * 200_000, "at most"),
        ("a.json", "[1]", "object"),
        ("a.json", '{"seed": true}', "seed"),
        ("a.json", '{"damping": 1' + "0" * 400 + "}", "damping"),
        ("a.json", '{"sparsity": []}', "sparsity"),
        ("a.ini", "seed=1", "a.ini"),
    ],
)
@pytest.mark.slow
def test_a_wrong_file_is_one_line(tmp_path, capsys, name, text, word):
    (tmp_path / name).write_text(text)
    argv = ["prune", "emoji-sd3", "--output", str(tmp_path / "o"), "--from", str(tmp_path / name)]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert word in err
    assert len(err) < 700


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert main(["inspect", "emoji-sd3", "--from", str(tmp_path / "a.toml")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: from: expected the obsdiff.json of a run")
    assert "a.toml" in err
    assert err.endswith("; check the path\n")


@pytest.mark.parametrize(("prompts", "found"), [(["a", "b"], ["a", "b"]), ([{"x": 1}], None)])
def test_a_record_has_its_prompts(tmp_path, prompts, found):
    file = record_of(tmp_path, PruningConfig(), prompts)
    assert parse(["inspect", "emoji-sd3", "--from", str(file)]).recorded_prompts == found
