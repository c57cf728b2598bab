"""What the README shows is run as it stands."""

import re
import sys
from pathlib import Path

import pytest

from safemarl_bench.registry import load_object
from safemarl_bench.testing import check_agent

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_shows_the_library_a_batch_and_an_agent():
    assert len(PYTHON_BLOCKS) == 4


def test_the_reference_example_computes_what_the_paper_s_problem_is_worth(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    exec(compile(PYTHON_BLOCKS[3], "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("5.16174 ")


def test_the_library_example_runs_and_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON_BLOCKS[0], "README.md", "exec"), {})
    (promised,) = re.findall(r"print\(answer.*?# (.*)", PYTHON_BLOCKS[0])
    assert capsys.readouterr().out.splitlines()[-1] == promised
    assert list(tmp_path.glob("smb-results/runs/merge@1/csq/seed0-*.json"))


def test_the_batch_example_runs_and_prints_what_it_says(capsys):
    names = {}
    exec(compile(PYTHON_BLOCKS[1], "README.md", "exec"), names)
    (promised,) = re.findall(r"print\(observations.*?# (.*)", PYTHON_BLOCKS[1])
    assert capsys.readouterr().out.splitlines() == [promised]
    assert names["cost"] > 0.0


def test_the_example_agent_keeps_the_contract(tmp_path, monkeypatch):
    (tmp_path / "readme_package").mkdir()
    (tmp_path / "readme_package" / "agents.py").write_text(PYTHON_BLOCKS[2])
    monkeypatch.syspath_prepend(tmp_path)
    check_agent("readme_package.agents:FasterSlower", "merge")
    assert load_object("readme_package.agents:FasterSlower").deterministic
    sys.modules.pop("readme_package.agents")


def test_the_two_quickstart_commands_are_the_promised_ones():
    quickstart = README.partition("## Quickstart")[2].partition("\n## ")[0]
    assert re.findall(r"```\n(.*?)\n```", quickstart, re.DOTALL) == [
        "python -m pip install tox && tox -e suites -- --agent=mip_pcsq",
        "python -m pip install tox && tox -e tests",
    ]


PAGES = ("README.md", "safemarl_bench/stackelberg/README.md")
LINKS = [
    (page, link) for page in PAGES for link in re.findall(r"\]\(((?!http)[^)]+)\)", (ROOT / page).read_text("utf-8"))
]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_somewhere(page, link):
    assert ((ROOT / page).parent / link).exists()


@pytest.mark.parametrize("page", PAGES[1:])
def test_a_page_of_the_library_prints_what_it_says(page, capsys):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL):
        exec(compile(block, page, "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert promised == printed
