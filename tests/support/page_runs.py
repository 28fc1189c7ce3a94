"""Small runs for tests of the page: their results.json, changed in one place, and their pages."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from obsdiff.evaluation.report.page import write_page


def write_run(folder: Path) -> Path:
    """Write a run of two prompts: dense pictures in green, pruned ones in red."""
    for name, colour in (("dense", (20, 180, 60)), ("half", (220, 40, 40))):
        (folder / name).mkdir()
        for i in range(2):
            Image.new("RGB", (64, 64), colour).save(folder / name / f"{i:03}.png")
    layers = [
        {"name": f"l{i}", "shape": [8, 4], "sparsity": 0.5, "error": 0.01 * (i + 1), "loss": 1.0}
        for i in range(5)
    ]
    entry = {
        "name": "half",
        "path": "models/half",
        "config": {"method": "obs"},
        "cost": {
            "parameters": 1000,
            "zeros": 400,
            "bytes_on_disk": 2000,
            "seconds": {"calibration": 3.0, "solve": 1.0},
        },
        "metrics": {
            "relative_latent_error": {"value": 0.1234, "low": 0.1, "high": 0.2, "why_not": None}
        },
        "layers": layers,
        "images": ["half/000.png", "half/001.png"],
    }
    results = {
        "schema": 1,
        "dense": "tiny",
        "dense_images": ["dense/000.png", "dense/001.png"],
        "dense_cost": {"parameters": 1000, "zeros": 0, "bytes_on_disk": 2000},
        "runs": [entry],
        "prompts": ["a <b>fish</b>", "moon"],
        "seeds": [1, 2],
        "settings": {"num_inference_steps": 2},
        "versions": {"torch": "2"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def change(run: Path, **changes) -> None:
    (run / "results.json").write_text(json.dumps(results_of(run) | changes))


def another(run: Path, name: str, **changes) -> Path:
    """A copy of a run in a folder beside its pictures, changed."""
    folder = run / name
    folder.mkdir(parents=True)
    for pictures in ("dense", "half"):
        shutil.copytree(run / pictures, folder / pictures)
    (folder / "results.json").write_text(json.dumps(results_of(run) | changes))
    return folder


def renamed(run: Path, name: str, **changes) -> dict:
    """The run's one entry under another name, changed."""
    return results_of(run)["runs"][0] | {"name": name} | changes


def figure(value: float, width: float = 0.01) -> dict:
    return {"value": value, "low": value - width, "high": value + width, "why_not": None}


def page_of(*runs: Path) -> str:
    page = runs[0] / "page.html"
    write_page(list(runs), page)
    return page.read_text()


def noisy(run: Path, prompts: int, runs: int, side: int) -> None:
    """Write pictures that don't compress, `runs` of them beside dense for each prompt."""
    rng = np.random.default_rng(0)
    names = [f"noise/{i:03}.png" for i in range(prompts)]
    (run / "noise").mkdir()
    for name in names:
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(run / name)
    entries = [renamed(run, f"run {i}", images=names) for i in range(runs)]
    change(
        run,
        runs=entries,
        dense_images=names,
        prompts=[f"prompt {i} & more" for i in range(prompts)],
        seeds=list(range(prompts)),
    )


EVIL = (
    "</script><script>document.title='evil'</script>\"'>"
    "<img src=x onerror=\"document.title='evil'\">{{ 7 * 7 }}$x$"
)


def evil(run: Path) -> str:
    """A page whose every text tries to be markup."""
    cost = results_of(run)["runs"][0]["cost"] | {
        "seconds": {EVIL: 1.0},
        "step": {"speedup": 1.1, "low": 1.0, "high": 1.2},
        "memory": {"why_not": EVIL},
    }
    missing = {"value": None, "low": None, "high": None, "why_not": EVIL}
    config = {"method": EVIL, "pattern": EVIL, EVIL: EVIL}
    entry = renamed(
        run,
        EVIL,
        path=EVIL,
        config=config,
        cost=cost,
        metrics=results_of(run)["runs"][0]["metrics"] | {"fid": missing},
    )
    texts = {
        "dense": EVIL,
        "prompts": [EVIL, EVIL],
        "settings": {EVIL: EVIL},
        "versions": {EVIL: EVIL},
        "judges": {EVIL: EVIL},
    }
    change(run, runs=[entry, entry | {"config": {}}, entry | {"config": {EVIL: 3}}], **texts)
    return page_of(run, another(run, "second", seeds=[3, 4], dense=EVIL + "2"))


def several(run: Path) -> str:
    """A page of four runs, whose figures sort differently as numbers and as texts."""
    cost = results_of(run)["runs"][0]["cost"]
    rows = [
        ("b", 0.9, 300, "obs"),
        ("a", 0.05, 20, "wanda"),
        ("d", 0.9, 1000, "obs"),
        ("c", 0.1, None, "dsnot"),
    ]
    entries = [
        renamed(
            run,
            name,
            config={"method": method, "sparsity": error},
            metrics={"relative_latent_error": figure(error)},
            cost=cost | {"seconds": {} if seconds is None else {"solve": seconds}},
        )
        for name, error, seconds, method in rows
    ]
    change(run, runs=[*entries, renamed(run, "a_name_without_any_gap_" * 8)])
    return page_of(run)
