"""The page of the paper's tables: `off` beside the methods, held-out names, plots."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.conditions import model_version
from benchmarks.paper import prompt_errors, rows, write
from benchmarks.paper.modulation import FixedText
from benchmarks.paper.plots import draw_plots
from benchmarks.paper.tables import MODELS_OF, TABLES
from benchmarks.paper.write import WRITERS, conditions

from ..conftest import sd3

DENSE = {"parameters": 1000, "macs": 500, "zeros": 0}
SPENT = {"parameters": 800, "macs": 400, "zeros": 0}
GONE = {"heads": {"removed": 4, "total": 20}, "neurons": {"removed": 3, "total": 30}}


def figure(value: float) -> dict:
    return {
        "value": value,
        "low": 0.9 * value,
        "high": 1.1 * value,
        "per_prompt": [0.9 * value, 1.1 * value],
    }


def figures(value: float) -> dict:
    return {
        "metrics": {
            "relative_latent_error": figure(value),
            "clip_score": figure(70 - value),
            "fid": {"value": 90 + value, "low": 60.0, "high": 120.0},
        },
        "held_out": {"relative_latent_error": figure(2 * value)},
    }


def off(value: float, share: float = 0.5) -> dict:
    return figures(value) | {"method": "off", "sparsity": share, "off": ["a", "b"]}


def pruned(method: str, value: float, share: float) -> dict:
    row = {"method": method, "sparsity": share, "cost": SPENT, "gone": GONE}
    return figures(value) | row


def dense() -> dict:
    return {"method": "dense", "cost": DENSE, "metrics": figures(0)["metrics"]}


@pytest.fixture
def structured() -> dict:
    rows = {"dense": dense(), "off 20%": off(0.3)}
    return rows | {f"{m} 20%": pruned(m, e, 0.2) for m, e in (("l1", 0.2), ("obs", 0.1))}


def test_off_stands_beside_the_structured_methods(structured):
    text = WRITERS["structured"](structured)
    (line, *_) = [line for line in text.splitlines() if line.startswith("| 20%")]
    assert "-20.0% | -20.0% | 0.3000" in line
    assert "**0.1000**" in line
    assert "ecodiff" not in text
    structured["ecodiff 20%"] = pruned("ecodiff", 0.4, 0.2)
    head, _, line, *_ = WRITERS["structured"](structured).splitlines()
    assert head.endswith("| obs | ecodiff |")
    assert line.endswith("| 0.4000 <sub>0.3600 to 0.4400</sub> |")


def test_every_share_has_its_error_on_held_out_names(structured):
    *_, held_out, prompts = WRITERS["structured"](structured).split("\n\n")
    assert "held-out names" in held_out.splitlines()[0]
    assert "**0.2000**" in held_out
    assert "held-out names" in prompts.splitlines()[0]


def test_under_a_grid_of_errors_are_worst_prompts_and_shares_drawn_worse_than_by_obs(structured):
    of_errors = structured["l1 20%"]["metrics"]["relative_latent_error"]
    of_errors["per_prompt"] = [0.05, 0.35]  # obs: 0.09 and 0.11
    _, small, *_ = WRITERS["structured"](structured).split("\n\n")
    head, _, line = small.splitlines()
    assert head.startswith("| worst prompt, share drawn worse than by obs | off | random | l1 |")
    assert line == "| 20% | 0.330, 100% | | 0.350, 50% | 0.110 |"


def test_over_several_sets_a_prompt_has_its_mean_error():
    def row(*errors: float) -> dict:
        return {"metrics": {"relative_latent_error": {"per_prompt": list(errors)}}}

    rows = {"a 0": row(0.1, 0.9, 0.3), "a 1": row(0.3, 0.1, 0.5), "a 2": row(9, 9, 9)}
    rows |= {"b 0": row(0.3, 0.3, 0.3), "b 1": row(0.3, 0.3, 0.5)}
    assert prompt_errors.worst_prompt([rows["a 0"], rows["a 1"]]) == "0.500"
    names, bases = ([f"{name} {i}" for i in range(3)] for name in "ab")
    assert prompt_errors.drawn_worse(rows, names, bases) == "33%"  # not the third, which is as bad
    assert prompt_errors.drawn_worse(rows, names, names) == ""
    assert prompt_errors.drawn_worse(rows, names, ["c 0", "c 1", "c 2"]) == ""


@pytest.mark.parametrize(
    ("error", "text"),
    [(1.2346, "1.235"), (0.02, "0.020"), (0.01234, "0.0123"), (0.00024, "0.00024"), (0, "0.00000")],
)
def test_small_worst_prompts_have_more_decimals(error, text):
    assert prompt_errors.largest(np.array([error, 0])) == text


def test_presets_are_compared_with_the_papers_by_the_share_drawn_worse():
    rows = {"off: 50%": off(0.6)}
    for preset, value in (("paper", 0.1), ("best", 0.05), ("fast", 0.2)):
        rows[f"{preset}: 50%, seed 0"] = pruned("obs", value, 0.5) | {"cpu_seconds": 1}
    head, _, *lines = WRITERS["presets"](rows).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines)]
    at = [cells[0].index(name) for name in ("preset", "worst prompt", "drawn worse than by paper")]
    assert [[line[i] for i in at] for line in cells[1:]] == [
        ["`off`", "0.660", ""], ["`paper`", "0.110", ""], ["`best`", "0.055", "0%"],
        ["`fast`", "0.220", "100%"],
    ]  # fmt: skip


def test_rounding_is_compared_with_the_same_pruning_and_with_nearest():
    values = {"2:4": 0.1, "2:4 + int4 nearest": 0.3, "2:4 + int4": 0.2}
    rows = {f"{n}, seed 0": pruned("", v, 0.5) | {"stored_bytes": 1} for n, v in values.items()}
    plain, nearest, gptq = WRITERS["bits"](rows).splitlines()[2:]
    assert plain.endswith(" | 0.110 | | | | |")
    assert nearest.endswith("</sub> | | 100% | |")
    assert gptq.endswith(" | 0.50 | 100% | 0% |")


def test_the_table_of_off_has_each_alone_and_the_shares():
    rows = {
        "dense": dense(),
        "alone: blocks.0.ff": {"metrics": {"relative_latent_error": figure(0.05)}},
        "off 47%": off(0.6, 0.48),
    }
    alone, shares = WRITERS["off"](rows).split("\n\n")
    assert "| blocks.0.ff | 0.0500 <sub>0.0450 to 0.0550</sub> | 0.055 |" in alone
    assert "| 48.0% | 2 | 0.6000 <sub>0.5400 to 0.6600</sub> | 0.660 | 1.2000" in shares


@pytest.mark.parametrize("table", ["off", "unstructured"])
@pytest.mark.slow
def test_two_shares_with_the_same_choice_are_drawn(table, tmp_path):
    rows = {
        "dense": dense(),
        "alone: blocks.0.ff": {"metrics": {"relative_latent_error": figure(0.05)}},
    }
    if table == "unstructured":
        del rows["alone: blocks.0.ff"]
    rows |= {"off 47%": off(0.6), "off 50%": off(0.6)}
    file = draw_plots(table, {"emoji-sd3": {"rows": rows}}, tmp_path)
    assert file.stat().st_size > 1000


def test_the_conditions_name_versions_and_prompt_sets():
    kept = {
        "model_version": 2,
        "settings": {"guidance_scale": 4.0},
        "prompts": {"evaluation": 64, "held_out": 32},
        "versions": {"torch": "2.13.0"},
        "machine": "x86_64",
    }
    text = " ".join(conditions({"off": {"emoji-sd3": kept}}).split())
    assert "64 evaluation prompts, which no decision ever saw, and 32 of held-out names" in text
    assert "emoji-sd3, version 2: guidance_scale 4.0" in text


def test_a_table_is_shown_only_when_it_has_all_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    file = rows.file_of(model_version("emoji-sd3"), "emoji-sd3", "off")
    assert write.read("emoji-sd3", "off") is None
    file.parent.mkdir()
    file.write_text(json.dumps({"rows": {}}))
    assert write.read("emoji-sd3", "off") is None
    file.write_text(json.dumps({"rows": {}, "finished": True}))
    assert write.read("emoji-sd3", "off") == {"rows": {}, "finished": True}


def test_rows_may_be_left_for_another_time(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    lab = SimpleNamespace(model="emoji-sd3", settings={}, sets={"evaluation": [], "held_out": []})
    for skip, measured, shown in (("time of *", ["a"], False), ("", ["a", "time of a"], True)):
        table = rows.Rows(lab, "off", skip)
        for name in ("a", "time of a"):
            table.keep(name, lambda: {"metrics": {}})
        table.finish()
        assert list(table.rows) == measured
        assert bool(write.read("emoji-sd3", "off")) == shown


def test_the_page_names_the_tables_that_are_not_measured():
    kept = {"model_version": 3, "rows": {}}
    both = {"emoji-sd3": kept, "emoji-unet": kept}
    found = {"off": both, "prompts": {"emoji-sd3": kept}, "seconds": {}}
    assert " ".join(write.missing(found).split()) == (
        "Not measured on these versions of the models yet: number of calibration prompts "
        "(Figure 3) (emoji-unet); time to prune (Table 8) (emoji-sd3, emoji-unet)."
    )
    assert not write.missing({"off": both})
    assert not write.missing({"depth": both, "modulation": {"emoji-sd3": kept}})


def test_every_table_has_a_title_and_a_writer():
    assert list(TABLES) == list(write.TITLES) == list(WRITERS)
    assert set(MODELS_OF) < set(TABLES)


def small_row(value: float, stored: int) -> dict:
    return pruned("obs", value, 0.2) | {"stored_bytes": stored}


def test_small_stands_beside_what_torchao_does_alone_largest_on_disk_first():
    rows = {"dense": dense() | {"stored_bytes": 2_000_000}}
    rows["dense + int8 by torchao"] = small_row(0.001, 1_000_000)
    rows |= {f"small 20%, seed {i}": small_row(0.1 * (i + 1), 800_000) for i in range(3)}
    rows["best 20%, seed 0"] = small_row(0.1, 1_600_000)  # a set of three
    ways = {"dense + int8 by torchao": 0.8, "small 20%": 0.5, "best 20%": 1.1}
    rows |= {f"time of {way}": {"speedup": speedup} for way, speedup in ways.items()}
    lines = WRITERS["small"](rows).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [
        "| dense", "| dense + int8 by torchao", "| small 20%"
    ]  # fmt: skip
    assert "| 0.8 MB | 0.40 | 0.80 | 0.80 | 2.00 | 0.20000 " in lines[2]
    assert "| 0.10000, 0.20000, 0.30000 | 0.220 | 100% | 69.80 |" in lines[2]


def test_fewer_blocks_stand_beside_narrower_ones():
    rows = {"dense": dense()}
    for seed in (0, 1):
        rows |= {
            f"fewer blocks, repaired: 1, seed {seed}": pruned("depth", 0.2 + 0.2 * seed, 0.25),
            f"fewer blocks: 1, seed {seed}": pruned("depth", 0.5, 0.25),
        }
    plain, repaired = WRITERS["depth"](rows).splitlines()[2:]
    assert plain.startswith("| 1 block: fewer blocks | 0.80 | 0.80 | 0.50, 0.50 | 0.500 ")
    assert repaired.startswith("| 1 block: fewer blocks, repaired | 0.80 | 0.80 | 0.20, 0.40 | ")
    assert " | 0.330 | 0% <sub>than by fewer blocks</sub> | " in repaired
    assert repaired.endswith("| 0.600 | 0.660 | 69.7 |")


def test_folded_modulation_is_shown_with_the_errors_of_its_layers():
    layers = {"median": 0.01, "largest": 0.03}
    row = pruned("", 0.1, 0) | {"ranks": [12, 16], "fitted": layers, "layers": layers}
    rows = {"time alone: 2 prompts, 5%, seed 0": row}
    rows |= {f"16 prompts, 50%, seed {seed}": row | {"ranks": [62]} for seed in (0, 1)}
    alone, pooled = WRITERS["modulation"](rows).splitlines()[2:]
    assert alone.startswith("| the time step alone | 5% | 12 to 16 | 0.01, 0.03 | 0.01, 0.03 | 0.1")
    assert pooled.startswith("| pooled text, 16 prompts | 50% | 62 | ")
    assert pooled.endswith(" | 0.110 | 0.20000 | 0.220 |")


def test_a_fold_under_other_schedules_is_compared_with_the_schedule_of_its_calibration():
    schedules = {"10 steps": figure(0.1), "5 steps": figure(0.2)}
    rows = {"drawn otherwise": {"share": 0.7, "schedules": schedules}}
    *_, worst, worse = WRITERS["modulation"](rows).splitlines()
    assert worst == "| worst prompt | 0.110 | 0.220 |"
    assert worse == "| drawn worse than in 10 steps | | 100% |"


def test_a_fixed_text_is_read_at_every_prompt():
    denoiser = sd3(layers=2).transformer.eval()
    given = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 3, 32),
        "timestep": torch.tensor([5, 5]),
    }
    texts = torch.randn(2, 2, 32)

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            return [denoiser(pooled_projections=text, **given).sample for text in texts]

    assert not torch.allclose(*outputs())
    denoiser.register_forward_pre_hook(FixedText(texts[:1, 0]), with_kwargs=True)
    assert torch.equal(*outputs())
