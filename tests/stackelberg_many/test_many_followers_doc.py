"""What MANY_FOLLOWERS.md shows is run as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "safemarl_bench" / "stackelberg" / "MANY_FOLLOWERS.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_and_print_what_they_say(capsys):
    names, promised = {}, []
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
        promised += re.findall(r"^print\(.*  # (.*)$", block, re.MULTILINE)
    assert len(promised) == 3
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", TEXT))
def test_links_lead_somewhere(path):
    assert (PAGE.parent / path).exists()
