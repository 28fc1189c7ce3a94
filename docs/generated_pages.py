"""Pages that `make docs` makes from the code, and links of the pages into the repository.

Settings and commands are made from the same fields and parsers as the command line's help, so they
can't differ from it; neither loads torch. The Python page is made by mkdocstrings.
"""

import argparse
import dataclasses
import re
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import obsdiff
from obsdiff.cli.arguments import parser
from obsdiff.config.fields import SECTIONS, default_in_words
from obsdiff.config.settings import Settings

OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")  # a link to a file beside docs/


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of settings, commands and Python."""
    pages = {"settings": settings_page(), "commands": commands_page(), "python": python_page()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links to files beside docs/ into links to the repository."""
    return OUTSIDE.sub(rf"]({config['extra']['repository']}/blob/main/\1)", markdown)


def settings_page() -> str:
    """Return a table of the settings for each section."""
    lines = [
        "# Settings",
        "",
        "Every setting of a pruning: `obsdiff.PruningConfig(name=...)` in Python, `--name` with",
        "hyphens on the command line. The record of a pruned folder has all of them.",
    ]
    for section in SECTIONS:
        lines += ["", f"## {section.capitalize()}", "", "| setting | default | what it does |"]
        lines.append("| --- | --- | --- |")
        for one in dataclasses.fields(Settings):
            if one.metadata["section"] == section:
                choices = one.metadata["choices"]
                possible = f": {', '.join(f'`{choice}`' for choice in choices)}" if choices else ""
                default = default_in_words(one) or ""
                lines.append(
                    f"| `{one.name}` | {cell(default)} | {cell(one.metadata['help'])}{possible} |"
                )
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def commands_page() -> str:
    """Return the help of every command."""
    top = parser()
    lines = ["# Command line", "", "```text", top.format_help().strip(), "```"]
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                text = command.format_help().strip()
                lines += ["", f"## obsdiff {name}", "", "```text", text, "```"]
    return "\n".join(lines) + "\n"


def python_page() -> str:
    """Return the directives that document every public name."""
    lines = ["# Python", "", "`import obsdiff` loads no torch; each name is imported on first use."]
    for name in sorted(obsdiff.HOMES, key=lambda name: (name[0].isupper(), name)):
        lines += ["", f"::: obsdiff.{obsdiff.HOMES[name]}.{name}"]
    return "\n".join(lines) + "\n"
