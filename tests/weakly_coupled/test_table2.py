"""Table 2 again: what one command trains, values, keeps and writes."""

import numpy as np
import pytest

from safemarl_bench.weakly_coupled import table2
from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import (
    action_values,
    optimal_solution,
    policy_values,
    start_value,
    stationary_solution,
)
from safemarl_bench.weakly_coupled.charging_policies import uniform

ARGUMENTS = ["--bays", "2", "--seeds", "2", "--episodes", "20"]


def test_a_run_is_valued_exactly_beside_the_best_and_the_uniform_policy():
    model = ChargingModel("code", 2)
    found = table2.run("wcql", 2, seed=3, episodes=20)
    agent = table2.train("wcql", 2, seed=3, episodes=20)
    prices, *bays = (grid.ravel() for grid in np.indices((3, 12, 12)))
    policy = agent.greedy(prices, np.stack(bays, axis=1))[0].reshape(3, 12, 12)
    assert found.value == pytest.approx(start_value(model, policy_values(model, policy, steps=50)), abs=1e-12)
    assert found.optimum == pytest.approx(5.13743, abs=5e-6)
    assert found.optimum == start_value(model, optimal_solution(model, steps=50).values)
    assert found.random == start_value(model, policy_values(model, uniform(model), steps=50))
    assert found.random < found.value < found.optimum
    exact = np.stack([q for _, q in action_values(model, stationary_solution(model).values, 0.9, first=False)])
    bound = agent.bounds(prices, np.stack(bays, axis=1)).T.reshape(exact.shape)
    feasible = np.broadcast_to(model.feasible.T[:, :, None, None], exact.shape)
    assert found.violated == (bound < exact)[feasible].mean()


def test_the_learned_bound_is_no_bound_everywhere_once_it_is_learned_and_never_was_one_in_the_official_code():
    assert 0.0 <= table2.run("wcql", 2, seed=0, episodes=60).violated < 0.5
    assert table2.run("wcql official", 2, seed=0, episodes=60).violated > 0.9
    assert np.isnan(table2.run("ql", 2, seed=0, episodes=20).violated)


def test_the_command_goes_on_where_it_was_stopped_and_writes_the_same_files(tmp_path, monkeypatch):
    table2.main([*ARGUMENTS, "--out", str(tmp_path / "at once")])
    started = []
    plain = table2.run

    def counted(*cell):
        started.append(cell)
        if len(started) == 4:
            raise KeyboardInterrupt
        return plain(*cell)

    monkeypatch.setattr(table2, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        table2.main([*ARGUMENTS, "--out", str(tmp_path / "in parts")])
    table2.main([*ARGUMENTS, "--out", str(tmp_path / "in parts")])
    assert len(started) == 2 * len(table2.VARIANTS) + 1
    for name in ("table2.csv", "table2.md"):
        assert (tmp_path / "at once" / name).read_bytes() == (tmp_path / "in parts" / name).read_bytes()


def test_the_page_has_a_row_for_each_learner_with_regret_score_and_what_was_published(tmp_path):
    runs = [
        table2.Run("wcql", "1", 3, seed, 6000, value, optimum=7.0, random=5.0, violated=0.25)
        for seed, value in enumerate((6.4, 6.6))
    ]
    table2.write(tmp_path / "table2.csv", runs)
    assert table2.read(tmp_path / "table2.csv") == runs
    last = table2.page(runs).splitlines()[-1]
    assert last == "| 3 | wcql | 6,000 x 2 | 6.500 ± 0.141 | 7.000 | 0.500 | 0.750 | 25.0 % | 7.14 |"


def test_there_is_help(capsys):
    with pytest.raises(SystemExit):
        table2.main(["--help"])
    assert "--episodes" in capsys.readouterr().out
