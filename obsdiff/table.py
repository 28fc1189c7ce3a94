"""results.json as one table for people."""

from typing import Any

Row = list[str]


def results_table(results: dict[str, Any]) -> str:
    """One line a run, the dense pipeline first; what was not measured is said below."""
    dense = results["dense_cost"]
    rows = [[title for title, _ in COLUMNS], ["dense", "0", *(cell({}, dense, dense) for _, cell in COLUMNS[2:])]]
    rows += [[run["name"], *(cell(run["metrics"], run["cost"], dense) for _, cell in COLUMNS[1:])] for run in results["runs"]]
    used = [j for j in range(len(COLUMNS)) if j == 0 or any(row[j] for row in rows[1:])]
    widths = [max(len(row[j]) for row in rows) for j in used]
    lines = ["  ".join(row[j].ljust(w) if j == 0 else row[j].rjust(w) for j, w in zip(used, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *notes(results)])


def error(metrics: dict, cost: dict, dense: dict) -> str:
    m = metrics["relative_latent_error"]
    return f"{m['value']:.4f} ({m['low']:.4f} to {m['high']:.4f})"


def left(kind: str) -> Any:
    """Heads or neurons that are left, where some left."""

    def cell(metrics: dict, cost: dict, dense: dict) -> str:
        row = cost.get(kind)
        return f"{row['total'] - row['removed']} of {row['total']}" if row else ""

    return cell


def parameters(metrics: dict, cost: dict, dense: dict) -> str:
    return f"{cost['parameters'] / 1e6:.2f} M" + (f" ({cost['parameters'] / dense['parameters']:.1%})" if cost is not dense else "")


def zeros(metrics: dict, cost: dict, dense: dict) -> str:
    return f"{cost['zeros'] / cost['parameters']:.1%}"


def size(metrics: dict, cost: dict, dense: dict) -> str:
    return f"{cost['bytes_on_disk'] / 1e6:.1f} MB"


def macs(metrics: dict, cost: dict, dense: dict) -> str:
    own, whole = (c.get("macs", {}).get("total") for c in (cost, dense))
    return f"{own / 1e9:.2f} G" + (f" ({own / whole:.1%})" if whole and cost is not dense else "") if own else ""


def speed(what: str) -> Any:
    """How many times faster than the dense pipeline, measured."""

    def cell(metrics: dict, cost: dict, dense: dict) -> str:
        row = cost.get(what)
        return f"{row['speedup']:.2f}x ({row['low']:.2f} to {row['high']:.2f})" if row else ""

    return cell


def memory(metrics: dict, cost: dict, dense: dict) -> str:
    peak = cost.get("memory", {}).get("peak_bytes")
    return f"{peak / 2**20:.0f} MiB" if peak else ""


COLUMNS = [
    ("run", None),
    ("relative latent error", error),
    ("heads", left("heads")),
    ("neurons", left("neurons")),
    ("parameters", parameters),
    ("zeros", zeros),
    ("on disk", size),
    ("MACs of a step", macs),
    ("speed of a step", speed("step")),
    ("of a picture", speed("picture")),
    ("peak memory", memory),
]


def notes(results: dict[str, Any]) -> list[str]:
    """What the figures are, and what was not measured, and why."""
    timed = ", and the quartiles of the speed over rounds" if any("step" in run["cost"] for run in results["runs"]) else ""
    lines = ["", f"{len(results['prompts'])} prompts; in brackets the 95 % bootstrap interval over prompts{timed}"]
    costs = {"dense": results["dense_cost"], **{run["name"]: run["cost"] for run in results["runs"]}}
    for name, cost in costs.items():
        for what in ("macs", "memory"):
            why = cost.get(what, {}).get("why_not")
            lines += [f"{name}: {what} not measured: {why}"] if why else []
    return lines
