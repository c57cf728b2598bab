"""Learning curves of records: as named series, as text, as a figure."""

import sys

import pytest
from matplotlib.image import imread

import safemarl_bench as smb
from safemarl_bench import cli
from safemarl_bench.curves import curves
from safemarl_bench.errors import MissingDependency, RecordError, SafeMARLBenchError
from safemarl_bench.plots import names, write_curves
from safemarl_bench.summary import curves_table, describe

AGENT = "toy_suite.agents:Counter"


def learn(self):
    """Report metrics of every kind at every fifth decision."""
    count = float(self.counts.sum())
    return {"loss_q": 10.0**-count, "loss_pi": 5.0 - count, "lam_0": count, "kl": 0.5} if count % 5 == 0 else {}


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Return two records of one cell but for the seed."""
    monkeypatch.setattr(smb.Agent, "learn", learn)
    settings = {"budget": "smoke", "episodes": 4, "results_dir": tmp_path, "progress": False}
    return [smb.run("toy", AGENT, seed=seed, **settings) for seed in (0, 1)]


def test_curves_are_the_series_of_the_record(records):
    train, found = records[0].train, {curve.name: curve for curve in curves(records[0])}
    both = train["returns"].values()
    assert found["return total"].values == [sum(pair) for pair in zip(*both, strict=True)]
    assert found["return leader"].values == train["returns"]["leader"]
    assert found["cost follower"].values == [row[0] for row in train["costs"]["follower"]]
    assert found["cost follower"].limit == records[0].cell["game"]["cost_limits"]["follower"][0]
    assert found["lam_0"].values == train["metrics"]["lam_0"]
    episodes = [now - before for before, now in zip([0, *train["episodes"]], train["episodes"], strict=False)]
    crashed = [share * count / 100.0 for share, count in zip(found["collisions [%]"].values, episodes, strict=True)]
    assert sum(crashed) == pytest.approx(train["totals"]["collisions"])
    assert [(found[name].panel, found[name].log) for name in ("loss_q", "loss_pi", "lam_0", "kl")] == [
        ("loss", True),
        ("loss, signed", False),
        ("multipliers", False),
        ("kl", False),
    ]


def test_the_table_has_a_row_per_curve_with_its_numbers(records):
    table = curves_table(records[0])
    (row,) = [line.split() for line in table.splitlines() if line.startswith("kl ")]
    assert row[1:5] == ["0.5"] * 4
    assert all(curve.name in table for curve in curves(records[0]))
    assert table in describe(records[0])


def test_figures_of_one_and_several_records_are_images_and_the_same_bytes_again(records, tmp_path):
    images = []
    for chosen in (records[:1], records):
        for name in ("a.png", "b.png"):
            write_curves(chosen, tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
        images.append(imread(tmp_path / "a.png"))
    assert images[1].shape[0] > images[0].shape[0]  # a panel for every curve
    assert images[0].std() > 0.0


def test_records_are_named_by_what_differs(records):
    assert names(records[:1]) == (f"toy@1  {AGENT}  seed 0  budget smoke", [""])
    assert names(records) == (f"toy@1  {AGENT}  budget smoke", ["seed 0", "seed 1"])


def test_show_draws_what_it_prints(records, tmp_path, capsys):
    path = tmp_path / "curves.png"
    assert cli.main(["show", str(tmp_path / records[0].relative_path), "--png", str(path)]) == 0
    out = capsys.readouterr().out
    assert "loss_q (log)" in out
    assert out.endswith(f"figure      {path}\n")
    assert path.exists()


def test_what_cannot_be_drawn_is_one_clear_line(records, tmp_path, monkeypatch):
    with pytest.raises(SafeMARLBenchError, match=r"a name that ends in \.png, got 'x\.pdf'"):
        write_curves(records, type(tmp_path)("x.pdf"))
    with pytest.raises(SafeMARLBenchError, match=r"cannot write figure .*: No such file"):
        write_curves(records, tmp_path / "nowhere" / "x.png")
    untrained = smb.run("toy", "random", budget="smoke", episodes=4, results_dir=tmp_path, progress=False)
    with pytest.raises(RecordError, match="random on toy has no learning curves: it did not train"):
        write_curves([*records, untrained], tmp_path / "x.png")
    assert "training    none" in describe(untrained)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r'pip install "safemarl-bench\[plots\]"'):
        write_curves(records, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
