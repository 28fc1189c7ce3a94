"""Killed runs resume to the same bits, from complete files alone, and only with the same input."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import obsdiff
from obsdiff import PruningConfig, UserError
from obsdiff.calibration.plan import plan_pruning
from obsdiff.errors import RunStopped
from obsdiff.layerwise.fingerprint import differences, fingerprint, parts
from obsdiff.layerwise.journal import (
    FINGERPRINT,
    RECORDING,
    Journal,
    JournalPlace,
    NullJournal,
    open_journal,
)
from obsdiff.layerwise.tasks import Task, TaskResult, tasks_of
from obsdiff.pipelines.record import LayerRecord
from obsdiff.pipelines.run import Run
from obsdiff.runtime.distributed import Ranks
from obsdiff.runtime.hashing import model_hashes, tensors_hash

from ..conftest import PROMPTS, flux, sd, sd3

STEPS = {"num_inference_steps": 2, "height": 16, "width": 16}
RUNS = {
    "live": {"calibration": "live", "packages": 3},
    "replay": {"calibration": "replay", "packages": 3},
    "asymmetric": {"calibration": "replay", "packages": 3, "asymmetric": True},
    "single": {"calibration": "single"},
    "2:4": {"pattern": "2:4", "calibration": "live", "packages": 2},
    "structured live": {
        "pattern": "structured",
        "sparsity": 0.5,
        "round_to": 1,
        "keep_first_last": False,
        "calibration": "live",
        "packages": 2,
    },
    "structured replay": {
        "pattern": "structured",
        "sparsity": 0.5,
        "round_to": 1,
        "keep_first_last": False,
        "calibration": "replay",
        "packages": 2,
    },
    "structured asymmetric": {
        "pattern": "structured",
        "sparsity": 0.5,
        "round_to": 1,
        "keep_first_last": False,
        "calibration": "replay",
        "packages": 2,
        "asymmetric": True,
    },
    "budget": {"memory_budget_gib": 1.0},
}


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


class Killed(BaseException):
    """As a kill would, it passes everything that could go on."""


def killed_after(monkeypatch, tasks: int) -> None:
    """The run ends when it would store another result after so many tasks of this process."""
    write, written = Journal.write, []

    def counted(self: Journal, task: Task, result: TaskResult) -> None:
        if len(written) == tasks:
            raise Killed
        written.append(task)
        write(self, task, result)

    monkeypatch.setattr(Journal, "write", counted)


def weights_and_layers(pipe, report):
    layers = [(row.name, row.sparsity, row.loss, row.error, row.damping) for row in report.layers]
    return denoiser_of(pipe).state_dict(), layers, report.groups


def assert_same(found, expected):
    assert found[0].keys() == expected[0].keys()
    assert all(torch.equal(w, expected[0][name]) for name, w in found[0].items())
    assert found[1:] == expected[1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "run"),
    [
        *((sd3, run) for run in RUNS),
        *((make, run) for make in (sd, flux) for run in ("replay", "structured asymmetric")),
    ],
)
def test_killed_three_times_it_ends_with_the_same_bits(tmp_path, monkeypatch, make, run):
    config = PruningConfig(**STEPS | RUNS[run])
    pipe = make()
    expected = weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config))
    for tasks in (0, 3, 2):
        with monkeypatch.context() as patched:
            killed_after(patched, tasks)
            with pytest.raises(Killed):
                obsdiff.prune_(make(), PROMPTS[:3], config, journal=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    pipe = make()
    assert_same(
        weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)),
        expected,
    )
    calls = []
    pipe = make()
    denoiser_of(pipe).register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same(
        weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)),
        expected,
    )
    assert not calls  # all of it was there


def first_package_done(tmp_path, monkeypatch, make, config) -> None:
    """A run that is killed as soon as the first of its packages is solved."""
    pipe = make()
    plan = plan_pruning(pipe, PROMPTS[:3], config)
    tasks = [t for t in tasks_of(plan.packages, plan.groups) if t.taps[0] in plan.packages[0].taps]
    with monkeypatch.context() as patched:
        killed_after(patched, len(tasks))
        with pytest.raises(Killed):
            obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)


def drawn(monkeypatch) -> list[int]:
    """The number of prompts of every batch that a pipeline draws from now on."""
    real, counts = Run.latents, []

    def counted(self: Run, prompts, *args):
        counts.append(len(prompts))
        return real(self, prompts, *args)

    monkeypatch.setattr(Run, "latents", counted)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "run", "room"),
    [(sd3, "replay", 1e9), (sd, "structured replay", 1e9), (flux, "asymmetric", 0)],
)
def test_a_resumed_replay_reads_its_recording(tmp_path, monkeypatch, make, run, room):
    """Also if memory had no room for it."""
    monkeypatch.setattr("obsdiff.prune.scratch_room", lambda *_: room)
    config, pipe = PruningConfig(**STEPS | RUNS[run]), make()
    expected = weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config))
    first_package_done(tmp_path, monkeypatch, make, config)
    batches, pipe = drawn(monkeypatch), make()
    found = obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)
    assert_same(weights_and_layers(pipe, found), expected)
    assert not batches


@pytest.mark.slow
def test_a_damaged_recording_is_drawn_again(tmp_path, monkeypatch):
    config, pipe = PruningConfig(**STEPS | RUNS["replay"]), sd3()
    expected = weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config))
    first_package_done(tmp_path, monkeypatch, sd3, config)
    (tmp_path / RECORDING / "000000.safetensors").write_bytes(b"")
    batches, pipe = drawn(monkeypatch), sd3()
    found = obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)
    assert_same(weights_and_layers(pipe, found), expected)
    assert sum(batches) == 3


def half_done(tmp_path, monkeypatch, config):
    with monkeypatch.context() as patched:
        killed_after(patched, 3)
        with pytest.raises(Killed):
            obsdiff.prune_(sd3(), PROMPTS[:3], config, journal=tmp_path)


@pytest.mark.slow
def test_a_damaged_piece_is_solved_again(tmp_path, monkeypatch):
    config = PruningConfig(**STEPS, calibration="live", packages=3)
    pipe = sd3()
    expected = weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config))
    half_done(tmp_path, monkeypatch, config)
    first, second, third = sorted(tmp_path.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    changed = bytearray(second.read_bytes())
    changed[-1] ^= 1
    second.write_bytes(changed)
    save_file(load_file(third), third)  # without its records
    pipe = sd3()
    assert_same(
        weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)),
        expected,
    )


def change_records(file, change) -> None:
    """Change the records in the header of a solved task, and leave all else as it is."""
    with safe_open(file, "pt") as opened:
        notes = opened.metadata()
    records = json.loads(notes["records"])
    change(records)
    save_file(load_file(file), file, notes | {"records": json.dumps(records)})


def take_others(records) -> None:
    """Name other heads and neurons as removed, as many as before."""
    for group in records["groups"]:
        count = len(group["removed"])
        group["removed"] = sorted(set(range(group["total"])) - set(group["removed"]))[:count]


@pytest.mark.slow
def test_changed_records_of_a_structured_run_are_not_taken(tmp_path, monkeypatch):
    config = PruningConfig(**STEPS | RUNS["structured live"])
    pipe = sd3()
    expected = weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config))
    half_done(tmp_path, monkeypatch, config)
    for file in tmp_path.glob("*.safetensors"):
        change_records(file, take_others)
    pipe = sd3()
    assert_same(
        weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)),
        expected,
    )


def result_of(task: Task) -> TaskResult:
    row = LayerRecord("layer", (2, 3), 1, 0.5, math.inf, 0.1, 0.01, 2.0, 0.1)
    return TaskResult({"layer": torch.ones(2, 3)}, [row], [])


def test_a_result_counts_for_its_own_task_and_notes_alone(tmp_path):
    journal = Journal(tmp_path, {})
    first, second = Task(1, 0, ()), Task(2, 0, ())
    journal.note("allocation", {"shares": {"a": 0.5}})
    journal.write(first, result_of(first))
    assert journal.read(first).layers == result_of(first).layers
    journal.file(first).rename(journal.file(second))
    assert journal.read(second) is None
    journal.file(second).rename(journal.file(first))
    again = Journal(tmp_path, {})
    assert again.read(first)
    again.note("allocation", {"shares": {"a": 0.6}})
    assert again.read(first) is None


def change_a_digit(file) -> None:
    text = file.read_text()
    assert "0.5" in text
    file.write_text(text.replace("0.5", "0.6"))


@pytest.mark.parametrize(
    "damage", [change_a_digit, lambda f: f.write_text(""), lambda f: f.unlink()]
)
@pytest.mark.parametrize("name", ["budget", "allocation", "permutation"])
def test_a_damaged_note_is_found_again_and_so_is_what_follows(tmp_path, damage, name):
    journal, names = Journal(tmp_path, {}), ["budget", "allocation", "permutation"]
    value, task = {"value": 0.5}, Task(1, 0, ())
    for each in names:
        assert journal.once(each, lambda: value, Ranks()) == value
    journal.write(task, result_of(task))
    damage(tmp_path / f"{name}.json")
    again = Journal(tmp_path, {})
    assert again.read(task) is None
    found = [each for each in names if again.recall(each) is None]
    assert found == names[names.index(name) :]
    for each in names:
        assert again.once(each, lambda: value, Ranks()) == value
    assert list(Journal(tmp_path, {}).notes) == names


@pytest.mark.slow
def test_a_changed_allocation_is_measured_again(tmp_path, monkeypatch):
    config = PruningConfig(**STEPS, calibration="single", allocation="obs")
    pipe = sd3()
    expected = weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config))
    half_done(tmp_path, monkeypatch, config)
    file = tmp_path / "allocation.json"
    found = json.loads(file.read_text())
    shares = found["value"]["value"]["shares"]
    shares |= dict.fromkeys(list(shares)[:3], 0.9)
    file.write_text(json.dumps(found))
    pipe = sd3()
    assert_same(
        weights_and_layers(pipe, obsdiff.prune_(pipe, PROMPTS[:3], config, journal=tmp_path)),
        expected,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda pipe: pipe.tokenizer.add_tokens(["apple</w>"]),
        lambda pipe: setattr(pipe.text_encoder.config, "eos_token_id", 3),
        lambda pipe: pipe.vae.register_to_config(scaling_factor=3.0),
    ],
)
def test_vocabularies_and_settings_of_components_count(change):
    pipe = sd3()
    before = parts(pipe)
    assert parts(sd3()) == before
    change(pipe)
    assert len([name for name, found in parts(pipe).items() if found != before[name]]) == 1


def test_a_fingerprint_does_not_depend_on_the_place_of_the_model(tmp_path):
    found = []
    for name in ("one", "two"):
        sd3().save_pretrained(tmp_path / name)
        pipe = StableDiffusion3Pipeline.from_pretrained(
            tmp_path / name, text_encoder_3=None, tokenizer_3=None
        )
        plan = plan_pruning(pipe, PROMPTS[:3], PruningConfig(**STEPS))
        found.append(fingerprint(pipe, plan))
    assert not differences(*found)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"prompts": PROMPTS[1:4]}, "another prompts"),
        ({"config": {"damping": 0.1}}, r"another config\.damping \(0\.01 there, 0\.1 here\)"),
        ({"model": True}, r"another model\.transformer"),
        ({"version": "9.9"}, r"another versions\.torch"),
        ({"device": "NVIDIA H200"}, r"another machine\.device \(NVIDIA H200 there, cpu here\)"),
    ],
)
def test_a_run_with_other_input_is_refused_and_says_what_differs(
    tmp_path, monkeypatch, changes, word
):
    config = {**STEPS, "calibration": "live", "packages": 3}
    half_done(tmp_path, monkeypatch, PruningConfig(**config))
    file = tmp_path / FINGERPRINT
    there = json.loads(file.read_text())
    there["versions"]["torch"] = changes.get("version", there["versions"]["torch"])
    there["machine"]["device"] = changes.get("device", there["machine"]["device"])
    file.write_text(json.dumps(there))
    pipe = sd3()
    if "model" in changes:
        pipe.transformer.proj_out.weight.data[0, 0] += 1
    before = {name: w.clone() for name, w in pipe.transformer.state_dict().items()}
    with pytest.raises(UserError, match=word):
        obsdiff.prune_(
            pipe,
            changes.get("prompts", PROMPTS[:3]),
            PruningConfig(**config | changes.get("config", {})),
            journal=tmp_path,
        )
    assert all(torch.equal(w, before[name]) for name, w in pipe.transformer.state_dict().items())


def test_a_full_disk_stops_the_run_in_one_line(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("obsdiff.layerwise.journal.save_file", full)
    with pytest.raises(RunStopped, match=r"can't be written: .*No space left on device"):
        obsdiff.prune_(sd3(), PROMPTS[:3], PruningConfig(**STEPS), journal=tmp_path)


def counting() -> tuple[list[dict], Callable[[], dict]]:
    """What was found, and a function that finds another value with every call."""
    found: list[dict] = []

    def find() -> dict:
        found.append({"value": len(found), "shares": {"a": 0.5}})
        return found[-1]

    return found, find


def test_a_value_is_computed_once_and_recalled_afterwards(tmp_path):
    found, find = counting()
    for _ in range(2):
        journal = Journal(tmp_path, {"a": 1})
        for _ in range(2):
            assert journal.once("allocation", find, Ranks()) == found[0]
        assert journal.recall("allocation") == found[0]
    assert len(found) == 1
    assert json.loads((tmp_path / "allocation.json").read_text())["value"]["value"] == found[0]
    assert journal.recall("budget") is None
    assert journal.once("budget", find, Ranks()) == found[1]
    assert journal.recall("allocation") == found[0]


def test_without_a_folder_a_value_is_computed_every_time_and_nothing_is_stored():
    journal, (found, find) = NullJournal(), counting()
    assert [journal.once("allocation", find, Ranks())["value"] for _ in range(3)] == [0, 1, 2]
    assert len(found) == 3
    journal.note("allocation", found[0])
    assert journal.recall("allocation") is None
    task, result = Task(0, 0, ()), TaskResult({}, [], [])
    journal.write(task, result)
    assert journal.read(task) is None


def test_a_value_that_could_not_be_computed_is_not_stored(tmp_path):
    journal = Journal(tmp_path, {})
    with pytest.raises(ZeroDivisionError):
        journal.once("allocation", lambda: {"value": 1 / 0}, Ranks())
    found, find = counting()
    assert journal.once("allocation", find, Ranks()) == found[0]


def test_a_result_is_read_as_it_was_written(tmp_path):
    journal = Journal(tmp_path, {})
    task, other = Task(3, 1, ()), Task(4, 1, ())
    row = LayerRecord("layer", (2, 3), 1, 0.5, 1.0, 0.1, 0.01, 2.0, 0.1)
    result = TaskResult({"layer": torch.randn(3, 2).T}, [row], [], {"layer": torch.randn(2)})
    assert journal.read(task) is None
    journal.write(task, result)
    found = journal.read(task)
    assert (found.layers, found.groups) == ([row], [])
    assert found.tensors.keys() == result.tensors.keys() == {"layer", "layer.bias"}
    assert all(torch.equal(found.tensors[name], x) for name, x in result.tensors.items())
    assert journal.read(other) is None
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_the_journal_of_a_place_has_the_hashes_that_were_computed_before(tmp_path, monkeypatch):
    pipe, config = sd3(), PruningConfig(**STEPS)
    plan, hashes = plan_pruning(pipe, PROMPTS[:3], config), model_hashes(pipe)
    assert type(open_journal(None, pipe, plan)) is NullJournal
    opened = open_journal(str(tmp_path / "one"), pipe, plan)
    monkeypatch.setattr("obsdiff.layerwise.fingerprint.model_hashes", None)  # never computed again
    same = open_journal(JournalPlace(tmp_path / "one", hashes), pipe, plan)
    assert (same.folder, same.fingerprint) == (tmp_path / "one", opened.fingerprint)
    obsdiff.prune_(pipe, PROMPTS[:3], config, journal=JournalPlace(tmp_path / "one", hashes))
    assert list((tmp_path / "one").glob("*.safetensors"))
    with pytest.raises(UserError, match=r"another model\.transformer"):
        open_journal(JournalPlace(tmp_path / "one", hashes | {"transformer": "0"}), pipe, plan)


def test_differences_are_named_with_both_values():
    assert differences(
        {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}, "e": None}
    ) == ["b.d (3 there, 4 here)"]
    assert differences({"a": "x" * 99}, {}) == ["a"]


def test_a_digest_tells_names_formats_shapes_and_bytes_apart():
    x = torch.arange(4.0)
    variants = [
        ("x", x),
        ("y", x),
        ("x", x.double()),
        ("x", x.view(2, 2)),
        ("x", x + 1),
        ("x", x[:0]),
    ]
    assert len({tensors_hash([v]) for v in variants}) == len(variants)
    assert tensors_hash([("x", x.expand(3, 4).T)]) == tensors_hash(
        [("x", x.expand(3, 4).T.contiguous())]
    )
