"""The tables in the terminal, cell by cell."""

from obsdiff.evaluation.report.text_table import results_table
from obsdiff.evaluation.report.values import part_lines


def figure(value: float) -> dict:
    return {"value": value, "low": value - 1, "high": value + 1, "why_not": None}


def cost(parameters: int, zeros: int, **further) -> dict:
    return {"parameters": parameters, "zeros": zeros, "bytes_on_disk": 2 * parameters, **further}


RESULTS = {
    "dense_cost": cost(4_000_000, 0, macs={"total": 8e9, "why_not": None}),
    "dense_metrics": {"clip_score": figure(30.0)},
    "runs": [
        {
            "name": "narrow",
            "cost": cost(
                3_000_000,
                300_000,
                heads={"removed": 2, "total": 8},
                rounded={"layers": 45, "bits": 8},
                folded={"layers": 6, "total": 8},
                macs={"total": 4e9, "why_not": None},
                step={"speedup": 1.5, "low": 1.25, "high": 1.75},
                memory={"peak_bytes": None, "why_not": "no /proc"},
            ),
            "metrics": {"clip_score": figure(29.5), "psnr": figure(20.0)},
        },
        {
            "name": "sparse",
            "cost": cost(4_000_000, 2_000_000, memory={"peak_bytes": None, "why_not": "no /proc"}),
            "metrics": {"clip_score": figure(10.0), "psnr": figure(25.0)},
        },
    ],
    "prompts": ["a", "b"],
}


def rows(lines: list[str]) -> list[list[str]]:
    """The cells of a table, which two or more spaces separate."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_quality_and_cost_of_every_pipeline():
    lines = results_table(RESULTS).splitlines()
    assert rows(lines[:4]) == [
        ["run", "PSNR, dB", "CLIP score"],
        ["dense", "infinite", "30.00 (29.00 to 31.00)"],
        ["narrow", "20.00 (19.00 to 21.00)", "29.50 (28.50 to 30.50)~"],
        ["sparse", "25.00 (24.00 to 26.00)", "10.00 (9.00 to 11.00)"],
    ]
    assert rows(lines[5:9]) == [
        [
            "run",
            "heads removed",
            "rounded, folded",
            "parameters",
            "zeros",
            "on disk",
            "MACs of a step",
            "speed of a step",
        ],
        ["dense", "4.00 M", "0.0%", "8.0 MB", "8.00 G"],
        [
            "narrow",
            "2 of 8",
            "45 layers in 8 bits, 6 of 8 modulation layers folded",
            "3.00 M (75.0%)",
            "10.0%",
            "6.0 MB",
            "4.00 G (50.0%)",
            "1.50x (1.25 to 1.75)",
        ],
        ["sparse", "4.00 M (100.0%)", "50.0%", "8.0 MB"],
    ]
    assert "quartiles" in lines[10]


def test_the_worst_prompt_of_every_pipeline_is_named():
    prompts = ["a", "b\nwith  blanks", "c" * 80]
    figures = [figure(0.2) | {"per_prompt": errors} for errors in ([0.1, 0.4, 0.1], [0, 0.1, 0.5])]
    runs = [
        run | {"metrics": {"relative_latent_error": found}}
        for run, found in zip(RESULTS["runs"], figures, strict=True)
    ]
    lines = results_table(RESULTS | {"prompts": prompts, "runs": runs}).splitlines()
    assert lines[4:7] == [
        "worst prompt of narrow: 0.4000, b with blanks",
        f"worst prompt of sparse: 0.5000, {'c' * 70}...",
        "",
    ]


def test_a_cost_that_was_not_measured_is_one_line_with_its_runs():
    lines = results_table(RESULTS).splitlines()
    assert lines[-1] == "peak memory: not measured: no /proc (narrow, sparse)"
    assert "peak memory" not in lines[5]


def test_figures_made_of_parts_have_a_line_each():
    parts = {"single_object": {"value": 0.9, "count": 80}, "counting": {"value": 0.5, "count": 20}}
    figure = {"value": 0.82, "low": 0.7, "high": 0.9, "why_not": None, "parts": parts}
    runs = [{"name": "half", "metrics": {"geneval": figure}}]
    assert part_lines({"runs": runs}) == [
        "GenEval of half: single object 0.900 (80), counting 0.500 (20); "
        "mean of these (of all 553 prompts: the papers' score) 0.700"
    ]
    del figure["parts"]
    assert part_lines({"runs": runs}) == []
