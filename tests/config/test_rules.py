"""PruningConfig: defaults, presets, and one line for every wrong setting."""

import json
import math

import pytest

from obsdiff.config import PruningConfig
from obsdiff.errors import UserError


def test_defaults_are_the_papers():
    c = PruningConfig()
    assert (c.method, c.pattern, c.removed, c.num_prompts, c.batch_size) == (
        "obs",
        "unstructured",
        0.5,
        100,
        4,
    )
    assert (c.step_weighting, c.step_weight_min, c.step_weight_max, c.damping) == (
        "log_decrease",
        0.8,
        1.2,
        0.01,
    )
    assert c.packages is None
    assert c.compensation


def test_sparsity_follows_from_a_group():
    assert PruningConfig(pattern="1:4").removed == 0.75
    assert PruningConfig(pattern="2:4").group == (2, 4)
    assert PruningConfig(sparsity=0.3).removed == 0.3


def test_depth_has_a_method_and_an_amount_of_its_own():
    c = PruningConfig(pattern="depth")
    assert (c.method, c.removed, c.depth, c.group) == ("effect", 0.1, True, None)
    assert PruningConfig(**json.loads(json.dumps(c.to_dict()))) == c


def test_a_saved_config_makes_the_same_config():
    c = PruningConfig(pattern="4:8", include="*.ff.*", blocks="1-2")
    again = PruningConfig(**json.loads(json.dumps(c.to_dict())))
    assert again == c
    assert again.include == ("*.ff.*",)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsity": -0.1}, "-0.1"),
        ({"sparsity": 1.0}, "1.0"),
        ({"sparsity": float("nan")}, "nan"),
        ({"sparsity": "half"}, "'half'"),
        ({"sparsity": True}, "True"),
        ({"pattern": "2;4"}, "'2;4'"),
        ({"pattern": "5:4"}, "'5:4'"),
        ({"pattern": "4:4"}, "'4:4'"),
        ({"pattern": "0:4"}, "'0:4'"),
        ({"pattern": "2:4:8"}, "'2:4:8'"),
        ({"pattern": 24}, "24"),
        ({"pattern": "2:4", "sparsity": 0.5}, "0.5"),
        ({"method": "wand"}, "'wand'"),
        ({"num_prompts": 0}, "0"),
        ({"num_inference_steps": 0}, "0"),
        ({"num_inference_steps": 2.5}, "2.5"),
        ({"batch_size": 0}, "0"),
        ({"seed": -1}, "-1"),
        ({"packages": 2, "memory_budget_gib": 1.0}, "both"),
        ({"packages": 0}, "0"),
        ({"memory_budget_gib": 0.0}, "0.0"),
        ({"blocks": "3-"}, "'3-'"),
        ({"blocks": "5-3"}, "'5-3'"),
        ({"target": "conv3"}, "'conv3'"),
        ({"damping": -1.0}, "-1.0"),
        ({"damping": float("inf")}, "inf"),
        ({"step_weighting": "cosine"}, "'cosine'"),
        ({"store": "sparse"}, "expected one of plain, bitmask; found 'sparse'"),
        ({"store": "bitmask", "pattern": "structured"}, "expected zeros, of pattern unstructured"),
        ({"store": "bitmask", "pattern": "depth"}, "store: pattern depth removes whole blocks"),
        ({"tokens_per_column": 0}, "expected a number above 0, or all, found 0"),
        ({"tokens_per_column": "every"}, "expected a number above 0, or all, found 'every'"),
        ({"tokens_per_column": float("inf")}, "found inf"),
        ({"step_weight_min": 1.3}, "1.3"),
        ({"step_weight_min": 0.0}, "0.0"),
        (
            {"step_weight_min": 1e-60, "step_weight_max": 1e-50},
            "step_weight_min: expected between 1e-06 and 1e+06, found 1e-60",
        ),
        (
            {"step_weight_max": 1e39},
            "step_weight_max: expected between 1e-06 and 1e+06, found 1e+39",
        ),
        ({"damping": 1e300}, "damping: expected 0 or more, and below 1e+06, found 1e+300"),
        ({"height": 10**30}, "height: expected at most 65536 pixels"),
        ({"guidance_scale": -1.0}, "-1.0"),
        ({"dtype": "float8"}, "'float8'"),
        ({"compensation": "no"}, "'no'"),
        ({"keep_first_last": "no"}, "'no'"),
        ({"component": 5}, "5"),
        ({"method": ["obs"]}, "['obs']"),
        ({"preset": ["best"]}, "['best']"),
        ({"target": {}}, "{}"),
        ({"include": None}, "include"),
        ({"exclude": [5]}, "[5]"),
        ({"damping": 10**400}, "damping: expected 0 or more"),
        ({"sparsity": "50 percent"}, "'50 percent'"),
        ({"sparsity": "100%"}, "0 <= sparsity < 1, as 0.5 or 50%, found 1.0"),
        ({"target_macs": "0%", "pattern": "structured"}, "between 0 and 1, found 0.0"),
        ({"dtype": "fp8"}, "'fp8'"),
        ({"dtype": ["fp16"]}, "['fp16']"),
        ({"pattern": "depht"}, "did you mean depth?"),
        ({"pattern": "depth", "method": "obs"}, "method obs does not do pattern depth"),
        ({"method": "effect"}, "method effect does not do pattern unstructured"),
        ({"pattern": "depth", "sparsity": 0.0}, "at least one block, found 0"),
        ({"pattern": "depth", "refine": "lstsq"}, "refine: pattern depth removes whole blocks"),
        ({"pattern": "depth", "exclude": "*.ff.*"}, "exclude: pattern depth"),
        ({"pattern": "depth", "allocation": "drawn"}, "allocation: pattern depth"),
        ({"pattern": "depth", "target": "ffn"}, "target: pattern depth"),
        ({"pattern": "depth", "packages": 2}, "packages: pattern depth"),
        ({"pattern": "2:4", "target_macs": 0.5}, "needs pattern structured or depth"),
        ({"pattern": "depth", "preset": "best"}, "preset best: expected pattern unstructured"),
    ],
)
def test_a_wrong_value_raises_one_line_that_names_it(settings, words):
    with pytest.raises(UserError) as error:
        PruningConfig(**settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "single"),
        ({"packages": 4}, "live"),
        ({"packages": 4, "calibration": "replay"}, "replay"),
        ({"memory_budget_gib": 1.0}, "single"),
    ],
)
def test_calibration_is_a_single_pass_unless_packages_are_given(settings, found):
    assert PruningConfig(**settings).calibrating == found


@pytest.mark.parametrize("preset", ["paper", "best", "fast"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "structured"])
def test_presets_fill_in_what_is_not_given(preset, pattern):
    c = PruningConfig(preset=preset, pattern=pattern)
    assert c.method == ("obs" if preset == "paper" or pattern == "structured" else "alps")
    assert c.calibrating == ("live" if preset == "paper" else "single")
    assert c.allocation == ("uniform" if preset == "paper" or pattern == "2:4" else "sensitivity")
    assert PruningConfig(**json.loads(json.dumps(c.to_dict()))) == c


def test_the_fast_preset_runs_fewer_prompts_and_half_of_their_steps():
    c = PruningConfig(preset="fast")
    assert (c.num_prompts, c.step_share, c.allocation_prompts) == (24, 0.5, 2)
    assert [c.steps_of(steps) for steps in (1, 4, 28)] == [1, 2, 14]
    more = PruningConfig(preset="fast", num_prompts=100, step_share="100%")
    assert (more.num_prompts, more.step_share, more.steps_of(28)) == (100, 1.0, 28)
    assert PruningConfig(preset="best").num_prompts == PruningConfig().num_prompts == 100


@pytest.mark.parametrize("value", [0, 1.01, True, "half", math.nan])
def test_a_share_of_steps_is_above_0_and_at_most_1(value):
    with pytest.raises(UserError, match="step_share: expected"):
        PruningConfig(step_share=value)


def test_the_portable_preset_removes_whole_multiples_of_neurons_alone():
    c = PruningConfig(preset="portable")
    assert (c.pattern, c.target, c.round_to) == ("structured", "ffn-alone", 256)
    assert (c.method, c.calibrating, c.allocation) == ("obs", "single", "sensitivity")
    assert PruningConfig(**json.loads(json.dumps(c.to_dict()))) == c
    assert PruningConfig(preset="portable", pattern="structured") == c
    assert PruningConfig(preset="portable", round_to=128).round_to == 128


def test_a_given_setting_overrides_the_preset():
    c = PruningConfig(preset="best", method="wanda", allocation="owl", allocation_prompts=7)
    assert (c.method, c.allocation, c.allocation_prompts, c.calibrating) == (
        "wanda",
        "owl",
        7,
        "single",
    )


def test_the_paper_preset_is_the_papers_algorithm():
    c = PruningConfig(preset="paper")
    assert c.kept_tokens is None
    assert PruningConfig(preset="paper", tokens_per_column=8).kept_tokens == 8
    assert (
        c.method,
        c.calibrating,
        c.default_packages,
        c.step_weighting,
        c.damping,
        c.num_prompts,
    ) == ("obs", "live", 4, "log_decrease", 0.01, 100)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"preset": "better"},
            "preset: expected one of paper, best, fast, portable, small; found 'better'",
        ),
        (
            {"preset": "best", "packages": 4},
            "calibration single (by preset best) sums all Hessians in one pass",
        ),
        (
            {"preset": "best", "calibration": "live"},
            "allocation sensitivity (by preset best) needs all Hessians at once, "
            "so calibration single; found live",
        ),
        (
            {"allocation": "obs", "sparsity": 0.95},
            "allocation obs does unstructured up to sparsity 0.9, found 0.95",
        ),
        (
            {"allocation": "obs", "pattern": "structured", "sparsity": 0.85},
            "allocation obs does structured up to sparsity 0.8, found 0.85",
        ),
        (
            {"preset": "best", "pattern": "structured", "method": "l1"},
            "allocation sensitivity (by preset best): structured needs the losses of method obs, "
            "found l1; or choose allocation uniform",
        ),
        (
            {"pattern": "structured", "target_parameters": 0.7, "method": "l1"},
            "allocation obs (for target_parameters): structured needs the losses of method obs, "
            "found l1",
        ),
        (
            {"preset": "paper", "pattern": "structured", "method": "l1"},
            "ranking authors (by preset paper): expected method obs, found l1; "
            "choose ranking equations",
        ),
        (
            {"ranking": "authors"},
            "ranking authors: expected pattern structured, found unstructured; choose ranking",
        ),
        (
            {"ranking": "authors", "pattern": "structured", "allocation": "obs"},
            "ranking authors: expected allocation uniform, found obs; choose ranking equations",
        ),
        ({"ranking": "best"}, "ranking: expected one of equations, authors; found 'best'"),
        (
            {"preset": "paper", "pattern": "structured", "target_macs": 0.7},
            "calibration single; found live (by preset paper)",
        ),
        (
            {
                "preset": "best",
                "calibration": "replay",
                "pattern": "structured",
                "target_macs": 0.7,
            },
            "calibration single; found replay",
        ),
        (
            {"preset": "best", "allocation": "obs", "calibration": "replay"},
            "allocation obs needs all Hessians at once, so calibration single; found replay;",
        ),
        (
            {"preset": "paper", "calibration": "single", "packages": 3},
            "packages: calibration single sums all Hessians in one pass",
        ),
        (
            {"calibration": "replay", "asymmetric": True, "compensation": False},
            "no-compensation repairs nothing; leave one of them out",
        ),
        ({"refine": "lstsq", "compensation": False}, "refine lstsq repairs the kept weights"),
        ({"refine": "exact"}, "refine: expected one of none, lstsq, swaps; found 'exact'"),
        ({"allocation": "best"}, "allocation: expected one of"),
        (
            {"allocation_prompts": 0},
            "allocation_prompts: expected a whole number of at least 1, found 0",
        ),
        (
            {"preset": "portable", "pattern": "2:4"},
            "preset portable: expected pattern structured, found 2:4; leave the pattern out",
        ),
        (
            {"target": "ffn-alone"},
            "target ffn-alone: expected pattern structured, found unstructured; choose target ffn",
        ),
        ({"method": "alps", "pattern": "structured"}, "method alps does not do pattern structured"),
    ],
)
def test_settings_that_exclude_each_other_raise_one_line(settings, words):
    with pytest.raises(UserError) as caught:
        PruningConfig(**settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_rules_of_single_settings_run_first():
    """A wrong type never reaches a rule that compares it with another setting."""
    for wrong in ({"held_out": "2"}, {"packages": "4"}, {"calibration": 3}, {"sparsity": "x"}):
        name = next(iter(wrong))
        with pytest.raises(UserError, match=f"{name}: expected"):
            PruningConfig(method="l1", choose_damping=True, permute=True, **wrong)


@pytest.mark.parametrize(
    ("settings", "suggestion"),
    [
        ({"method": "wand"}, "did you mean wanda?"),
        ({"method": "OBS"}, "did you mean obs?"),
        ({"preset": "quick"}, None),
        ({"preset": "papr"}, "did you mean paper?"),
        ({"allocation": "sensitivty"}, "did you mean sensitivity?"),
        ({"calibration": "singel"}, "did you mean single?"),
        ({"pattern": "structred"}, "did you mean structured?"),
        ({"pattern": "unstructred"}, "did you mean unstructured?"),
        ({"dtype": "bfloat1"}, "did you mean bfloat16?"),
        ({"target": "convs"}, "did you mean conv?"),
    ],
)
def test_a_misspelt_choice_has_a_suggestion(settings, suggestion):
    with pytest.raises(UserError) as caught:
        PruningConfig(**settings)
    line = str(caught.value)
    assert line.endswith(suggestion) if suggestion else "did you mean" not in line
