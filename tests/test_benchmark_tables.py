"""`benchmarks.tables`: only marked blocks are rewritten, and the README's results are not stale."""

import json
import shutil
from pathlib import Path
from statistics import median

import pytest

from benchmarks.demo import figures_of
from benchmarks.speed.rows import keep_rows
from benchmarks.tables import demo, quality, speed, structured
from benchmarks.tables.__main__ import ROOT, main
from benchmarks.tables.blocks import END, blocks_in, rewritten
from benchmarks.tables.markdown import errors, grid
from benchmarks.tables.measured import FOLDER, lines_of, measured
from benchmarks.tables.pages import PAGES, TABLES
from benchmarks.tables.results import COLUMNS, SETS_OF, newest, results
from benchmarks.tables.stored import NotMeasured
from obsdiff import UserError
from obsdiff.cli.demo import DEMO_MODEL, VARIANTS
from obsdiff.pipelines.builtin import BUILTINS
from obsdiff.runtime.json_files import write_json

SHARES = ("50%", "60%")

PAGE = f"before\r\n<!-- table: one -->\nold\n{END}\n  between\n<!-- table: two -->\n{END}"


def no_table() -> str:
    raise NotMeasured("python -m benchmarks.one")


PAPER = Path("paper") / "version-2"


def figure(value: float, count: int = 4) -> dict:
    """An error without noise between prompts."""
    return {
        "value": value,
        "low": value / 2,
        "high": 2 * value,
        "why_not": None,
        "per_prompt": [value] * count,
    }


def paper_row(value: float) -> dict:
    return {"metrics": {"relative_latent_error": figure(value)}}


def paper_rows() -> dict[str, dict]:
    """The rows of the paper's tables that the README shows, by table; `best` is the best."""
    baselines = {"magnitude": 0.2, "wanda": 0.3, "obs": 0.15}
    groups = {"l1": 0.4, "random": 0.5, "obs": 0.35}
    presets = {"paper": 0.1, "best": 0.0125}
    return {
        "unstructured": {f"{m} {s}": paper_row(baselines[m]) for m in baselines for s in SHARES},
        "semistructured": {f"{m} 2:4": paper_row(baselines[m]) for m in baselines},
        "structured": {f"{m} {s}": paper_row(groups[m]) for m in groups for s in ("20%", "30%")},
        "presets": {
            f"{name}: {column}, seed {seed}": paper_row(value * (1 + seed))
            for name, value in presets.items()
            for column in COLUMNS
            for seed in SETS_OF[name]
        },
    }


def repository(folder: Path, readme: str) -> Path:
    """A root with all pages and stored rows of the paper's tables."""
    for model in BUILTINS:
        for table, rows in paper_rows().items():
            file = folder / "benchmarks" / "results" / PAPER / f"{model}-{table}.json"
            write_json(file, {"prompts": 64, "finished": True, "rows": rows})
    (folder / "docs").mkdir()
    (folder / "README.md").write_text(readme)
    for page in ("measurements", "measured"):
        (folder / "docs" / f"{page}.md").write_text("no table\n")
    return folder


def test_a_block_is_replaced_and_the_text_outside_is_unchanged():
    text, missing = rewritten(PAGE, {"one": lambda: "| new |", "two": lambda: r"\1 second"})
    assert text == (
        f"before\r\n<!-- table: one -->\n\n| new |\n\n{END}\n  between\n"
        f"<!-- table: two -->\n\n\\1 second\n\n{END}"
    )
    assert not missing
    assert rewritten(text, {"one": lambda: "| new |", "two": lambda: r"\1 second"})[0] == text


def test_a_block_without_figures_is_left_as_it_is():
    text, missing = rewritten(PAGE, {"one": no_table, "two": lambda: "new"})
    assert blocks_in(text) == {"one": "old", "two": "new"}
    assert {name: str(why) for name, why in missing.items()} == {
        "one": "not measured: run python -m benchmarks.one"
    }


def test_an_unknown_name_is_refused_before_any_table_is_made():
    with pytest.raises(UserError, match="table two: expected one of one"):
        rewritten(PAGE, {"one": lambda: pytest.fail("made")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: a -->\nx\n", "table a: expected the line"),
        (f"<!-- table: a -->\n<!-- table: b -->\n{END}\n", "table a: expected the line"),
        (f"{END}\n", "expected 0 lines"),
        (f"<!-- table: a -->\n{END}\n" * 2, "table a: expected one block, found two"),
    ],
)
def test_comments_that_do_not_match_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        blocks_in(text)


def test_check_writes_nothing_and_ends_with_1_if_a_page_would_change(tmp_path, capsys):
    stale = f"a\r\n<!-- table: results -->\n{END}\n<!-- table: demo -->\nkept\n{END}\n"
    root = repository(tmp_path, "")
    page = root / "README.md"
    page.write_bytes(stale.encode())
    assert main(["--check"], root) == 1
    assert page.read_bytes() == stale.encode()
    shown = capsys.readouterr()
    assert shown.out == "README.md: would change\n"
    assert shown.err == f"demo: not measured: run {demo.COMMAND}\n"
    assert main([], root) == 0
    assert page.read_bytes().startswith(b"a\r\n<!-- table: results -->\n\nRelative latent error")
    assert blocks_in(page.read_text())["demo"] == "kept"
    assert main(["--check"], root) == 0


def test_the_command_refuses_an_unknown_table(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([], repository(tmp_path, f"<!-- table: speeed -->\n{END}\n"))
    assert "README.md: table speeed: expected one of which-pruning" in capsys.readouterr().err


def test_every_table_is_on_one_page():
    names = [name for page in PAGES for name in blocks_in((ROOT / page).read_text("utf-8"))]
    assert sorted(names) == sorted(TABLES)


def test_the_results_of_the_readme_are_those_of_the_stored_rows():
    blocks = blocks_in((ROOT / "README.md").read_text(encoding="utf-8"))
    assert blocks["results"] == results(ROOT / "benchmarks" / "results")


def test_no_page_of_the_repository_is_stale():
    assert main(["--check"]) == 0


def changed(root: Path, table: str, change) -> None:
    """Change the stored file of a table of emoji-sd3."""
    file = root / "benchmarks" / "results" / PAPER / f"emoji-sd3-{table}.json"
    kept = json.loads(file.read_text())
    change(kept)
    file.write_text(json.dumps(kept))


def test_the_lines_of_the_results(tmp_path):
    lines = results(repository(tmp_path, "") / "benchmarks" / "results").splitlines()
    assert lines[-14:-7] == [
        "| `emoji-sd3`, `magnitude` | 0.2000 | 0.2000 | 0.2000 | | |",
        "| `wanda` | 0.3000 | 0.3000 | 0.3000 | | |",
        "| `l1` | | | | 0.4000 | 0.4000 |",
        "| `random` | | | | 0.5000 | 0.5000 |",
        "| `obs` | 0.1500 | 0.1500 | 0.1500 | 0.3500 | 0.3500 |",
        f"| `--preset paper`{' | 0.1000' * 5} |",
        f"| `--preset best`{' | **0.0250**' * 5} |",
    ]
    assert lines[-7].startswith("| `emoji-unet`, `magnitude` |")


def test_the_results_are_of_the_newest_version_with_all_tables(tmp_path):
    root = repository(tmp_path, "")
    folder = root / "benchmarks" / "results"
    newer = folder / "paper" / "version-10"
    shutil.copytree(folder / PAPER, newer)
    assert newest(folder / "paper") == newer
    file = newer / "emoji-unet-structured.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"finished": False}))
    assert newest(folder / "paper") == folder / PAPER
    shutil.rmtree(folder / PAPER)
    with pytest.raises(NotMeasured):
        results(folder)


def test_presets_are_shown_for_each_model_that_has_all_their_rows(tmp_path):
    root = repository(tmp_path, "")
    folder = root / "benchmarks" / "results"
    both = " ".join(results(folder).split())
    assert "semistructured structured presets`" in both
    assert "alone" not in both
    changed(root, "presets", lambda kept: kept.update(finished=False))
    block = results(folder)
    assert "structured presets`)" in " ".join(block.split())
    assert "presets: `emoji-unet` alone" in " ".join(block.split())
    first, second = block.split("| `emoji-unet`,")
    assert "--preset" not in first
    assert "| `obs` | **0.1500** |" in first
    assert "`--preset best`" in second


def test_the_line_off_is_shown_where_it_is_measured(tmp_path):
    root = repository(tmp_path, "")
    row = paper_row(0.001)
    changed(root, "unstructured", lambda kept: kept["rows"].update({"off 50%": row}))
    changed(root, "structured", lambda kept: kept["rows"].update({"off 20%": row, "off 15%": row}))
    block = results(root / "benchmarks" / "results")
    assert "| `emoji-sd3`, `off` | | **0.0010** | | **0.0010** | |\n| `magnitude` |" in block
    assert "| `emoji-unet`, `magnitude` |" in block


def test_the_results_need_one_version_one_prompt_set_and_all_rows(tmp_path):
    root = repository(tmp_path, "")
    folder = root / "benchmarks" / "results"
    changed(root, "presets", lambda kept: kept.update(model_version=2))
    with pytest.raises(NotMeasured, match="different model_version: 1, 2"):
        results(folder)
    changed(root, "presets", lambda kept: kept.update(model_version=1, prompts={"evaluation": 64}))
    assert "64 evaluation prompts, version 1" in " ".join(results(folder).split())
    changed(root, "presets", lambda kept: kept["rows"].pop("best: 2:4, seed 2"))
    with pytest.raises(NotMeasured, match=r"no row best: 2:4, seed 2.*presets --model emoji-sd3"):
        results(folder)
    changed(root, "semistructured", lambda kept: kept["rows"].pop("wanda 2:4"))
    with pytest.raises(NotMeasured, match=r"no row wanda 2:4.*semistructured --model emoji-sd3"):
        results(folder)


def test_empty_cells_are_one_blank_and_errors_bold_only_if_they_differ():
    assert grid(["", "a"], [["b", ""]]) == "| | a |\n| --- | --- |\n| b | |"
    assert errors({"obs": figure(0.01), "l1": figure(0.2)}) == {
        "obs": "**0.0100** (0.0050 to 0.0200)",
        "l1": "0.200 (0.100 to 0.400)",
    }
    noisy = figure(0.19) | {"per_prompt": [0.0, 0.38, 0.0, 0.38]}
    assert "**" not in "".join(errors({"obs": noisy, "l1": figure(0.2)}).values())


def cost(megabytes: float, speedup: float, **removed) -> dict:
    speed = {"speedup": speedup, "low": speedup - 0.1, "high": speedup + 0.1}
    return {
        "parameters": 20_000_000,
        "zeros": 0,
        "bytes_on_disk": int(megabytes * 1e6),
        "macs": {"total": 5e9},
        "step": speed,
        **removed,
    }


def demo_results() -> dict:
    """A results.json of the demo."""
    runs = []
    for name, settings in VARIANTS.items():
        structured_ = settings.get("pattern") == "structured"
        gone = {"neurons": {"removed": 3000, "total": 10000}} if structured_ else {}
        runs.append(
            {
                "name": name,
                "config": {
                    "method": "alps",
                    "pattern": "unstructured",
                    "num_prompts": 8,
                    **settings,
                },
                "cost": cost(*((30, 1.25) if structured_ else (40, 1.0)), **gone),
                "metrics": {"relative_latent_error": figure(0.05 if "preset" in settings else 0.2)},
                "layers": [],
                "images": [],
            }
        )
    return {
        "schema": 1,
        "dense": DEMO_MODEL,
        "dense_cost": cost(40, 1.0),
        "runs": runs,
        "prompts": ["a", "b"],
        "seeds": [0, 1],
        "settings": {"num_inference_steps": 10},
        "threads": 2,
        "versions": {},
    }


def test_the_tables_of_the_demo(tmp_path):
    found = figures_of(demo_results(), ["a", "b", "c"], 2)
    (tmp_path / "demo.json").write_text(json.dumps(found))
    timed = {"rows": [{"sparsity": 0.1, "speedup": 1.1}, {"sparsity": 0.2, "speedup": 1.24}]}
    (tmp_path / "structured-speed.json").write_text(json.dumps(timed))
    run = {"name": demo.OF_MEASURED, "config": {"sparsity": 0.2}, "cost": {"step": {}}}
    run["cost"]["step"]["speedup"] = 1.04
    (tmp_path / demo.MEASURED).parent.mkdir()
    (tmp_path / demo.MEASURED).write_text(json.dumps({"runs": [run]}))
    assert (
        "at 20 % 30.0 of 40.0 MB | yes, without special kernels: a step of `emoji-unet` 1.04 "
        "times, of wide SD3 blocks 1.24, on a CPU |"
    ) in demo.which_pruning(tmp_path)
    (tmp_path / demo.MEASURED).write_text(json.dumps({"runs": []}))
    with pytest.raises(NotMeasured, match="no run emoji-unet-structured of 20 %"):
        demo.which_pruning(tmp_path)
    block = demo.demo(tmp_path)
    assert block.startswith("`emoji-unet`, version 2, 8 calibration prompts, 10 steps, 2 threads")
    assert block.partition("\n\n")[2].splitlines() == [
        "| | 50 % unstructured | 2:4 | structured 20 %: 3,000 of 10,000 neurons |",
        "| --- | --- | --- | --- |",
        "| `magnitude` | 0.200 (0.100 to 0.400) | 0.200 (0.100 to 0.400) | |",
        "| `obs` | 0.200 (0.100 to 0.400) | | |",
        "| `best` | **0.050** (0.025 to 0.100) | **0.050** (0.025 to 0.100) "
        "| **0.050** (0.025 to 0.100) |",
        "| `l1` | | | 0.200 (0.100 to 0.400) |",
        "| on disk, parameters, MACs | 40.0 MB, 20.00 M, 5.00 G | the same "
        "| 30.0 MB, 20.00 M, 5.00 G |",
        "| speed of a step with `best`, times dense's | 1.00 (0.90 to 1.10) | 1.00 (0.90 to 1.10) "
        "| 1.25 (1.15 to 1.35) |",
    ]


def test_a_demo_of_another_version_of_the_model_is_refused():
    with pytest.raises(UserError, match="run the demo again"):
        figures_of(demo_results(), ["other", "prompts"], 2)
    with pytest.raises(UserError, match="expected the prunings of the demo"):
        figures_of(demo_results() | {"dense": "emoji-sd3"}, ["a", "b"], 2)


def sent_in_file(folder: Path, **changes) -> Path:
    """A results.json as somebody sends it in."""
    given = demo_results() | {
        "machine": {"device": "A card", "format": "bfloat16"},
        "versions": {"obsdiff": "0.2.0", DEMO_MODEL: "3"},
        "dense_metrics": {},
    }
    file = folder / FOLDER / "emoji-unet-demo.json"
    file.parent.mkdir(exist_ok=True)
    write_json(file, given | changes)
    return file


def test_a_run_that_was_sent_in_becomes_rows(tmp_path):
    rows = lines_of(sent_in_file(tmp_path))
    assert len(rows) == len(VARIANTS)
    assert rows[1] == [
        "emoji-unet, version 3",
        "unstructured 50 %, obs, 8 prompts",
        "0.200 (0.100 to 0.400)",
        "not measured",
        "40.0 MB of 40.0 MB",
        "1.00 (0.90 to 1.10)",
        "2, 10",
        "A card, bfloat16",
        "0.2.0",
        "[emoji-unet-demo](../benchmarks/results/measured/emoji-unet-demo.json)",
    ]
    assert len(measured(tmp_path).splitlines()) == 2 + len(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "expected schema 1, found 2"),
        ({"seeds": ["zero", 1]}, "does not follow schema 1: seeds"),
        ({"dense": "/home/me/model"}, "expected no folder of a machine, found '/home/me/model'"),
        ({"machine": {}}, "expected 'machine'"),
    ],
)
def test_a_run_that_cannot_be_a_row_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        lines_of(sent_in_file(tmp_path, **changes))


def test_the_table_of_what_a_pruning_costs(tmp_path):
    def row(name: str, *runs: float, plain: float | None = None) -> dict:
        return {"name": name, "value": median(runs), "plain": plain, "runs": list(runs)}

    keep_rows([row("whole/default", 1.25), row("memory/solve", 3.0, 3.5, 4.0, plain=6.0)], tmp_path)
    keep_rows([row("whole/best", 2.0, 2.5, 3.0)], tmp_path, "emoji-unet")
    whole, parts = speed.pruning_cost(tmp_path).split("\n\n")
    head, _, default, *_, best = whole.splitlines()
    assert head == "| over plain inference of the prompts | aim | `sd3-8x768` | `emoji-unet` |"
    assert default == "| `whole/default`: default calibration | at most 1.15 | 1.25 (one round) | |"
    assert best.endswith("| at most 1.6 | | 2.50 (2.00 to 3.00) |")
    assert parts.splitlines()[2].endswith("| at most 2.5 | 6.00 | 3.50 (3.00 to 4.00) |")
    (tmp_path / "speed.json").write_text('{"rows": []}')
    with pytest.raises(NotMeasured, match="no whole pruning"):
        speed.pruning_cost(tmp_path)


def quality_rows(*errors: tuple[str, int, int, float, float]) -> dict:
    """Rows of two calibration sets whose mean is the given error, equal for all targets."""
    return {
        f"{preset}, {prompts}, {steps}: {target}, {seed}": {
            "preset": preset,
            "target": target,
            "prompts": prompts,
            "steps": steps,
            "tokens": None,
            "seed": seed,
            "cost": cost,
            "error": error * (0.9 + 0.2 * seed),
        }
        for preset, prompts, steps, cost, error in errors
        for target in quality.TARGETS
        for seed in (0, 1)
    }


def test_the_table_of_time_to_quality(tmp_path):
    rows = quality_rows(("paper", 100, 10, 4.5, 0.2), ("fast", 24, 5, 0.3, 0.1))
    rows.pop("fast, 24, 5: 2:4, 0"), rows.pop("fast, 24, 5: 2:4, 1")
    about = {"command": "c", "model_version": 3, "tuning_prompts": 32, "threads": 1}
    for model in quality.MODELS:
        kept = about | {"model": model, "rows": rows}
        (tmp_path / f"quality-{model}.json").write_text(json.dumps(kept))
    block = quality.quality(tmp_path)
    assert block.startswith("`emoji-unet`, version 3, 32 prompts that settings are chosen on")
    assert block.splitlines()[-4:] == [
        "| | 50 % | 2:4 | structured 30 % |",
        "| --- | --- | --- | --- |",
        "| fast, 24 prompts, 5 steps | 0.30: 0.50 | | 0.30: 0.50 |",
        "| paper, 100 prompts, 10 steps | 4.50: 1.00 | 4.50: 1.00 | 4.50: 1.00 |",
    ]
    kept["rows"] = quality_rows(("fast", 24, 5, 0.3, 0.1))
    (tmp_path / f"quality-{model}.json").write_text(json.dumps(kept))
    with pytest.raises(NotMeasured, match="no row of preset paper"):
        quality.quality(tmp_path)


def test_the_tables_of_structured_pruning(tmp_path):
    gone = {"heads": {"removed": 4, "total": 20}}
    about = {"command": "python -m benchmarks.x", "threads": 1}
    changes = {"parameters": {"before": 100, "after": 91}, "macs": {"before": 100, "after": 85}}
    case = {"target": "attention", "sparsity": 0.2} | changes | gone
    stored = {
        "structured-quality": {
            "model": "emoji-sd3",
            "packages": 1,
            "cases": 2,
            "prompts": {"evaluation": 24},
            "rows": [
                case | {"way": "l1", "error": figure(0.2)},
                case | {"way": "obs", "error": figure(0.05)},
            ],
        },
        "structured-speed": {
            "width": 1536,
            "tokens": 1024,
            "text_tokens": 333,
            "blocks": 4,
            "rows": [
                {"sparsity": 0.3, "round_to": 8, "macs_ratio": 1.4, "share": 0.9, **gone}
                | {"speedup": 1.26, "low": 1.2, "high": 1.3}
            ],
        },
        "structured-solve": {
            "dtype": "float32",
            "rounds": 3,
            "rows": [
                {"case": "6,144 neurons", "count": 1536, "same": 1536, "weights": 2e-6}
                | {"plain": {"ratio": 20.04}, "plain, Cholesky": {"ratio": 9.0}}
            ],
        },
    }
    for name, kept in stored.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(about | kept))
    assert structured.quality(tmp_path).endswith(
        "| heads and neurons | removed | parameters, MACs | `obs` | `l1` |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| heads alone, 20 % | 4 of 20 heads | -9.0 %, -15.0 % "
        "| **0.050** (0.025 to 0.100) | 0.200 (0.100 to 0.400) |"
    )
    assert structured.speed(tmp_path).endswith(
        "\n| 30 % | 4 of 20 heads | 1.40 | 1.26 (1.20 to 1.30) | 0.90 |"
    )
    shutil.copy(tmp_path / "structured-speed.json", tmp_path / "block-speed.json")
    assert structured.block_speed(tmp_path).endswith(" | 1.26 (1.20 to 1.30) | 0.90 | 1.31 |")
    block = structured.solve(tmp_path)
    text = " ".join(block.split())
    assert "1 thread, median of 3 rounds: the removed heads and neurons are the same as" in text
    assert "at most 2e-6 (relative)" in text
    assert block.endswith("\n| 6,144 neurons, 1,536 removed | 20.0 times | 9.0 times |")


def test_an_interrupted_measurement_writes_no_table(tmp_path):
    kept = {"command": "python -m benchmarks.x", "cases": 2, "rows": [{}]}
    (tmp_path / "structured-quality.json").write_text(json.dumps(kept))
    with pytest.raises(NotMeasured, match=r"1 of 2 rows\): run python -m benchmarks.x"):
        structured.quality(tmp_path)
