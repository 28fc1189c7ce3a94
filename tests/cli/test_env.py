"""The command `env`: versions and machine, without names of users and paths."""

import getpass
import json
import platform
import re
from pathlib import Path

from obsdiff.cli.main import main


def test_env_has_versions_and_machine_and_names_nobody(capsys):
    assert main(["env", "--json"]) == 0
    text, err = capsys.readouterr()
    found = json.loads(text)
    assert found["versions"]["python"] == platform.python_version()
    assert found["cores"] >= 1
    assert 0 < found["free_memory_gib"] <= found["memory_gib"]
    assert err == ""
    assert main(["env"]) == 0
    lines, err = capsys.readouterr()
    assert err.startswith("next: ")
    assert "torch " in lines
    threads = re.search(r"cores +\S+, (\d+) (threads?)\n", lines)
    assert threads
    assert (threads[1] == "1") == (threads[2] == "thread")
    for word in (str(Path.home()), platform.node()):
        assert word not in text + lines
    assert f"/{getpass.getuser()}" not in text + lines
