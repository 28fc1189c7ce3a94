"""The arguments: help, version, suggestions, MODEL among values, percentages and short formats."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest

from obsdiff import __version__
from obsdiff.cli.arguments import COMMANDS, parse, parser
from obsdiff.cli.commands import config_of
from obsdiff.cli.demo import VARIANTS
from obsdiff.cli.flags import flag_of
from obsdiff.cli.main import main
from obsdiff.cli.prune import prune_targets
from obsdiff.config import PruningConfig
from obsdiff.config.fields import SECTIONS
from obsdiff.errors import UserError

MODEL_FIRST = "prune emoji-sd3 --output D"


def help_of(capsys, monkeypatch, *words: str) -> str:
    """The printed help, at 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as done:
        main([*words, "--help"])
    assert done.value.code == 0
    return capsys.readouterr().out


def entries(text: str) -> dict[str, str]:
    """Flag or positional -> its help, of the help of a command."""
    found = re.split(r"^  (?=[-A-Za-z])", text.split("\nexample")[0], flags=re.M)[1:]
    blocks = [entry.split("\n\n")[0].split() for entry in found]
    return {words[0].rstrip(","): " ".join(words) for words in blocks}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_examples(capsys, monkeypatch, command):
    text = help_of(capsys, monkeypatch, command)
    assert text.startswith(f"usage: obsdiff {command} {COMMANDS[command].usage}\n")
    assert re.search(rf"^examples?:\n  obsdiff {command} ", text, re.M)
    assert max(len(line) for line in text.splitlines()) <= 100
    for words in entries(text).values():
        assert words.count("(default") <= 1, words
        assert "None" not in words, words


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_help_parse(capsys, monkeypatch, command):
    text = help_of(capsys, monkeypatch, command)
    lines = re.findall(rf"^  .*?obsdiff ({command} .*?)(?:    .*)?$", text, re.M)
    assert lines
    for line in lines:
        assert parse(shlex.split(line)).run is COMMANDS[command].run


@pytest.mark.parametrize("command", ["prune", "inspect"])
def test_flags_of_settings_are_grouped_by_section(capsys, monkeypatch, command):
    text = help_of(capsys, monkeypatch, command)
    titles = re.findall(r"^([a-z ]+):$", text, re.M)
    assert titles == ["options", "model", *SECTIONS, "output", "examples"]
    for section in SECTIONS:
        block = text.split(f"\n{section}:\n")[1].split("\n\n")[0]
        for field in fields(PruningConfig):
            here = re.search(rf"^  {flag_of(field.name)}[ ,]", block, re.M)
            assert bool(here) == (field.metadata["section"] == section), field.name


@pytest.mark.parametrize(
    ("flag", "default"),
    [
        ("--method", "(default: obs)"),
        ("--sparsity", "(default: 0.5; 0.1 for depth; 0.2 for preset small)"),
        ("--compensation", "(default: yes)"),
        ("--permute", "(default: no)"),
        ("--prompts", "(default: a built-in's own, else 120 general captions of obsdiff)"),
        ("--calibration", "(default: single, or live if a number of packages is given)"),
        ("--height", "(default: the model's own)"),
        ("--timeout-minutes", "(default: 30)"),
    ],
)
def test_a_help_states_its_default(capsys, monkeypatch, flag, default):
    assert entries(help_of(capsys, monkeypatch, "prune"))[flag].endswith(default)


def test_the_help_of_obsdiff_lists_the_commands(capsys, monkeypatch):
    text = help_of(capsys, monkeypatch)
    for name, command in COMMANDS.items():
        assert re.search(rf"^    {name} +{re.escape(command.summary)}$", text, re.M), name
    with pytest.raises(SystemExit) as done:
        main([])
    assert (done.value.code, capsys.readouterr().out) == (0, text)


def test_the_helps_count_the_prunings_of_the_demo(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    words = ("five", "six", "seven", "eight", "nine")
    for line in (["--help"], ["demo", "--help"]):
        with pytest.raises(SystemExit):
            parse(line)
        found = re.search(r"the built-in model in (\w+) ways", capsys.readouterr().out)
        assert found
        assert words.index(found[1]) + 5 == len(VARIANTS)


def test_the_version_loads_nothing_heavy():
    code = (
        "import sys; from obsdiff.cli.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as done: print(done.code, {'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"obsdiff {__version__}\n0 set()\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prun emoji-sd3", "expected one of prune, plan, .*; found 'prun'; did you mean prune?"),
        ("Report run", "found 'Report'; did you mean report?"),
        ("xyz", "found 'xyz' (see obsdiff --help)"),
        ("--verison", "obsdiff has no flag --verison; did you mean --version?"),
        (f"{MODEL_FIRST} --sparsty 0.5", "prune has no flag --sparsty; did you mean --sparsity?"),
        ("prune emoji-sd3 --outptu D", "did you mean --output? (see obsdiff prune --help)"),
        (f"{MODEL_FIRST} --num_prompts=4", "no flag --num_prompts; did you mean --num-prompts?"),
        (f"{MODEL_FIRST} --steps 4", "no flag --steps; did you mean --num-inference-steps?"),
        (f"{MODEL_FIRST} --no-compensate", "did you mean --no-compensation?"),
        (f"{MODEL_FIRST} --xyz", "obsdiff prune has no flag --xyz (see obsdiff prune --help)"),
        (f"{MODEL_FIRST} -o D", "obsdiff prune has no flag -o (see obsdiff prune --help)"),
        ("evaluate D --aginst M", "obsdiff evaluate has no flag --aginst; did you mean --against?"),
        ("inspect emojisd3", "named 'emojisd3'; built-in: .*; did you mean emoji-sd3?"),
        ("inspect emoji-sd3 --preset bst", "found 'bst'; did you mean best?"),
        ("inspect emoji-sd3 --method wand", "found 'wand'; did you mean wanda?"),
        ("inspect emoji-sd3 --dtype fp61", "found 'fp61'; did you mean fp16?"),
    ],
)  # fmt: skip
def test_a_misspelt_word_has_a_suggestion(capsys, line, words):
    assert main(shlex.split(line)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.match("error: .*" + re.escape(words).replace(r"\.\*", ".*"), err)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prune --output D", "MODEL: expected a folder, .*, found none; put it first"),
        ("prune --output D --sparsity emoji-sd3", "MODEL: expected"),
        ("prune --output D --include '*.ff.*' '*.attn.*'", "MODEL: expected"),
        ("inspect --json", "MODEL: expected"),
        ("prune emoji-sd3", "required: --output"),
        (f"{MODEL_FIRST} more", "expected obsdiff prune MODEL --output DIR .*; found also more"),
        ("evaluate A --against M B --output R", "found also B"),
        (f"{MODEL_FIRST} --sparsity 0.3 half", "sparsity: expected a share .*, found 'half'"),
        (f"{MODEL_FIRST} --sparsity 0.3,", "sparsity: expected a share .*, found ''"),
        ("inspect emoji-sd3 --sparsity half", "--sparsity: expected a share .*, found 'half'"),
        ("inspect emoji-sd3 --num-prompts many", "expected a whole number, found 'many'"),
        ("inspect emoji-sd3 --damping x", "expected a number, found 'x'"),
        ("inspect emoji-sd3 --low-rank x", "expected a share such as 0.1 or 10%, or a rank .*'x'"),
        ("inspect emoji-sd3 --tokens-per-column x", "expected a number or all, found 'x'"),
    ],
)
def test_wrong_arguments_are_one_line(line, words):
    with pytest.raises(UserError, match=words):
        parse(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "model", "lists"),
    [
        ("--sparsity 0.3 0.5 emoji-sd3 --output D", "emoji-sd3", {"sparsity": [0.3, 0.5]}),
        ("--output D --sparsity 0.3 0.5 emoji-sd3", "emoji-sd3", {"sparsity": [0.3, 0.5]}),
        ("--sparsity 0.3 emoji-sd3 --output D", "emoji-sd3", {"sparsity": [0.3]}),
        ("--sparsity 0.3 0.5 --output D emoji-sd3", "emoji-sd3", {"sparsity": [0.3, 0.5]}),
        ("--output D --sparsity 0.3 -- emoji-sd3", "emoji-sd3", {"sparsity": [0.3]}),
        ("emoji-sd3 --sparsity 0.3 0.5 --output D", "emoji-sd3", {"sparsity": [0.3, 0.5]}),
        ("--sparsity=0.3,0.5 emoji-sd3 --output D", "emoji-sd3", {"sparsity": [0.3, 0.5]}),
        ("--sparsity 0.3,0.5 emoji-sd3 --output D", "emoji-sd3", {"sparsity": [0.3, 0.5]}),
        ("--sparsity 30% '50 %' ./model --output D", "./model", {"sparsity": [0.3, 0.5]}),
        ("--pattern 2:4 structured org/m --output D", "org/m", {"pattern": ["2:4", "structured"]}),
        ("--pattern 2:4,4:8 emoji-sd3 --output D", "emoji-sd3", {"pattern": ["2:4", "4:8"]}),
        ("--include '*.ff.*' emoji-sd3 --output D", "emoji-sd3", {"include": ["*.ff.*"]}),
        ("--exclude a.b c.d m --output D", "m", {"exclude": ["a.b", "c.d"]}),
        ("m --include a.b c.d --output D", "m", {"include": ["a.b", "c.d"]}),
        (
            "--include '*.a' m.safetensors --exclude '*.b' '*.c' --output D",
            "m.safetensors",
            {"include": ["*.a"], "exclude": ["*.b", "*.c"]},
        ),
        (
            "--sparsity 0.3 m --exclude a.b c.d --output D",
            "m",
            {"sparsity": [0.3], "exclude": ["a.b", "c.d"]},
        ),
        (
            "--exclude a.b c.d --include e.f m --output D",
            "m",
            {"exclude": ["a.b", "c.d"], "include": ["e.f"]},
        ),
        (
            "--pattern 2:4 structured --sparsity 0.3 0.5 m --output D",
            "m",
            {"pattern": ["2:4", "structured"], "sparsity": [0.3, 0.5]},
        ),
    ],
)
def test_model_may_follow_the_values_of_a_flag(line, model, lists):
    args = parse(["prune", *shlex.split(line)])
    found = {name: value for name, value in vars(args).items() if isinstance(value, list)}
    assert (args.model, str(args.output), found) == (model, "D", lists)


def test_model_may_follow_a_wildcard_of_inspect():
    args = parse(["inspect", "--include", "*.ff.*", "emoji-sd3"])
    assert (args.model, args.include) == ("emoji-sd3", ["*.ff.*"])


def test_targets_are_named_by_pattern_and_sparsity():
    line = "prune --pattern unstructured 2:4 --sparsity 30% 0.5 emoji-sd3 --output D"
    targets = prune_targets(parse(line.split()))
    assert [(t.name, str(t.folder), t.config.removed) for t in targets] == [
        ("unstructured-0.30", "unstructured-0.30", 0.3),
        ("unstructured-0.50", "unstructured-0.50", 0.5),
        ("2-4", "2-4", 0.5),
    ]
    (only,) = prune_targets(parse(["prune", "emoji-sd3", "--output", "D"]))
    assert (only.name, str(only.folder)) == ("0.50", ".")


def test_percentages_and_short_formats_are_recorded_in_full():
    flags = "--pattern structured --target-macs 80% --dtype bf16 --no-compensation"
    args = parse(["inspect", "emoji-sd3", *flags.split()])
    config = config_of(args).to_dict()
    assert (config["target_macs"], config["dtype"], config["compensation"]) == (
        0.8,
        "bfloat16",
        False,
    )


@pytest.mark.parametrize(("text", "kept"), [("all", None), ("16", 16.0), ("0.5", 0.5)])
def test_tokens_per_column_are_a_number_or_all(text, kept):
    args = parse(["inspect", "emoji-sd3", "--tokens-per-column", text])
    assert config_of(args).kept_tokens == kept


def test_every_field_of_the_config_is_a_flag():
    known = parser().commands["prune"].format_help()
    for field in fields(PruningConfig):
        assert re.search(rf"^  {flag_of(field.name)}[ ,]", known, re.M), field.name
    assert "--no-compensation" in known


@pytest.mark.parametrize(("text", "kept"), [("10%", 0.1), ("0.1", 0.1), ("64", 64)])
def test_low_rank_is_a_share_or_a_rank(text, kept):
    found = config_of(parse(["inspect", "emoji-sd3", "--low-rank", text])).low_rank
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize(("text", "kept"), [("auto", "auto"), ("30%", 0.3)])
def test_the_share_of_modulation_may_be_left_to_the_class(text, kept):
    args = parse(["inspect", "emoji-sd3", "--modulation", text])
    assert config_of(args).modulation == kept
