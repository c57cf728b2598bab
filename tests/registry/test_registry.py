"""Suites and agents by name: found, resolved lazily, and refused with one clear line."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest
from toy_suite.agents import Continuous, Counter

import safemarl_bench as smb
from safemarl_bench import registry
from safemarl_bench.contract import build_config
from safemarl_bench.errors import ContractError, IncompatiblePair, RegistryError

TOY = registry.get_suite("toy")


def test_our_suites_and_agents_are_registered_beside_a_strangers():
    driving = {"merge", "roundabout", "intersection", "racetrack", "racetrack-frenet"}
    official = {"merge-official", "roundabout-official", "intersection-official", "racetrack-official"}
    charging = {"ev_charging-2", "ev_charging-4", "ev_charging-5", "ev_charging-code"}
    unranked = {*official, *charging}
    operators = {"ev_charging", "ad_matching", "inventory"}
    assert {*driving, *unranked, *operators, "ev_charging-game", "toy"} == set(registry.suite_names())
    assert {name for name in registry.suite_names() if not registry.get_suite(name).ranked} == unranked
    agents = set(registry.agent_names())
    assert {"bi_ac", "csq", "idle", "mip_pcsq", "random", "script", "toy_counter"} <= agents


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: registry.get_suite("merg"), "unknown suite 'merg': did you mean 'merge'"),
        (lambda: registry.get_agent("mip_pcs"), "unknown agent 'mip_pcs': did you mean 'mip_pcsq'"),
        (lambda: registry.get_agent("no_such_module:X"), "cannot import 'no_such_module'"),
        (lambda: registry.get_agent("toy_suite.agents:Conter"), "has no 'Conter': did you mean 'Counter'"),
        (lambda: registry.get_agent("toy_suite.game:ToyGame"), "not a subclass of safemarl_bench.Agent"),
        (lambda: registry.get_agent(":Counter"), "not of the form package.module:Name"),
        (lambda: registry.load_object("toy_suite.agents"), "not of the form package.module:Name"),
        (lambda: TOY.budget_steps("quik"), "no budget 'quik': did you mean 'quick'"),
        (lambda: smb.make("toy", backend="kernel"), "suite toy has no backend 'kernel': known: plain"),
        (lambda: build_config(Counter, {"epsilom": 0.1}), "no config key 'epsilom': did you mean 'epsilon'"),
        (lambda: build_config(Counter, {"epsilon": "high"}), "'epsilon' of agent Counter must be float, got str"),
        (lambda: build_config(Counter, {"bonus": 1.5}), "'bonus' of agent Counter must be int, got float"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest_right_one(call, message):
    with pytest.raises(RegistryError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_int_is_a_valid_value_of_a_float_setting():
    assert build_config(Counter, {"epsilon": 1}).epsilon == 1.0


def test_a_continuous_agent_does_not_fit_a_discrete_suite():
    with pytest.raises(IncompatiblePair, match="Continuous plays continuous actions, suite toy has discrete ones"):
        registry.check_pair(TOY, Continuous)


def write_suite(folder, **changes):
    """Write a copy of the toy suite's file with some lines changed: key -> new line, or None to drop it."""
    text = (registry._package_suites()["toy"]).read_text()
    lines = text.splitlines()
    for key, line in changes.items():
        lines = [(line or "") if old.startswith(f"{key} =") else old for old in lines]
    path = folder / "other.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_suite_file_can_be_registered_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_registered_suites", {})
    path = write_suite(tmp_path, name='name = "other"')
    assert smb.register_suite(path).name == "other"
    assert registry.get_suite("other").cost_limits == TOY.cost_limits
    with pytest.raises(RegistryError, match="suite name 'other' is taken"):
        smb.register_suite(path)


def test_a_budget_has_config_values_of_its_own_over_the_common_ones(tmp_path):
    path = write_suite(
        tmp_path, full="full = 600\n[agents.csq]\nrho = 0.9\nbatch_size = 8\n[agents.csq.full]\nrho = 0.5"
    )
    spec = registry.read_suite(path)
    assert spec.tuned("csq", "quick") == {"rho": 0.9, "batch_size": 8}
    assert spec.tuned("csq", "full") == {"rho": 0.5, "batch_size": 8}
    assert spec.tuned("mip_pcsq", "full") == {}
    assert spec.digest == TOY.digest, "tuning an agent changes no game"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": None, "name": 'name = "other"'}, "lacks gamma"),
        ({"gamma": "gama = 0.9", "name": 'name = "other"'}, "unknown key 'gama': did you mean 'gamma'"),
        ({"gamma": "gamma = ", "name": 'name = "other"'}, "Invalid value"),
        ({}, "names its suite 'toy'"),
        ({"scale": None, "center": None, "name": 'name = "other"'}, "lacks center of features, scale of features"),
    ],
)
def test_a_malformed_suite_file_is_refused(tmp_path, changes, message):
    with pytest.raises(RegistryError, match=message):
        smb.register_suite(write_suite(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": "gamma = 2"}, r"gamma must be in \(0, 1\], got 2"),
        ({"horizon": "horizon = 0"}, "horizon must be an integer of at least 1, got 0"),
        ({"version": 'version = "1"'}, "version must be an integer of at least 1, got '1'"),
        ({"action_kind": 'action_kind = "discret"'}, "action_kind must be one of discrete, continuous"),
        ({"backends": "backends = []"}, "backends must be a list of different names, at least one"),
        ({"smoke": "smoke = -5"}, "budget 'smoke' must be an integer of at least 1, got -5"),
        ({"scale": "scale = [6, 0, 1]"}, "features needs finite centers and positive scales"),
        ({"scale": "scale = [6, 1]"}, "as many centers and scales as names"),
        ({"leader": "leader = [-1.0]"}, "leader must be a list of different names"),
        ({"followers": 'followers = ["leader"]'}, "must have one entry for each of"),
        ({"version": 'version = 1\nkind = "gam"'}, "kind must be one of game, weakly_coupled, got 'gam'"),
        ({"version": 'version = 1\nkind = "weakly_coupled"'}, r"followers of a weakly coupled suite must be empty"),
        ({"version": 'version = 1\ncriterion = "mean"'}, "criterion must be one of total, discounted, got 'mean'"),
        ({"version": "version = 1\nboard = 3"}, "board must be text, got 3"),
        ({"full": "full = 600\n[agents.csq.fulll]\nrho = 0.5"}, r"agents\.csq\.fulll: there is no budget 'fulll'"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, changes, message):
    with pytest.raises(RegistryError, match=message):
        registry.read_suite(write_suite(tmp_path, **changes))


def test_two_packages_cannot_give_one_name_to_two_agents(monkeypatch):
    entry = importlib.metadata.EntryPoint("csq", "elsewhere:CSQ", registry.AGENT_GROUP)
    points = [*importlib.metadata.entry_points(group=registry.AGENT_GROUP), entry]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    with pytest.raises(RegistryError, match="agent 'csq' is registered twice"):
        registry._entry_point_agents.__wrapped__()


def test_a_suites_digest_follows_the_game_and_not_its_description(tmp_path):
    def digest(**changes):
        return registry.read_suite(write_suite(tmp_path, **changes)).digest

    assert digest() == TOY.digest
    assert digest(title='title = "another"') == TOY.digest
    assert digest(quick="quick = 77") == TOY.digest
    assert digest(spread="spread = 0.75") != TOY.digest
    assert digest(version="version = 2") != TOY.digest


def test_the_criterion_is_part_of_the_game_and_weighs_rewards(tmp_path):
    spec = registry.read_suite(write_suite(tmp_path, version='version = 1\ncriterion = "discounted"'))
    assert spec.digest != TOY.digest
    assert spec.weight(np.array([0, 2])).tolist() == [1.0, spec.gamma**2]
    assert TOY.weight(7) == 1.0


def test_suites_of_a_kind_share_a_board_unless_they_name_one(tmp_path):
    spec = registry.read_suite(write_suite(tmp_path, version='version = 1\nboard = "toys"'))
    assert spec.digest == TOY.digest
    assert [spec.family, TOY.family] == ["toys", "discrete"]
    assert registry.get_suite("ev_charging").family == "weakly_coupled"


def test_the_digest_follows_the_scale_of_the_state_but_not_the_rank(tmp_path):
    def spec(text):
        path = write_suite(tmp_path)
        path.write_text(path.read_text() + text)
        return registry.read_suite(path)

    own = spec('\n[state_features]\nnames = ["sum"]\ncenter = [1]\nscale = [12]\n')
    assert own.state_features.scale == (12,)
    assert own.features == TOY.features
    assert own.digest != TOY.digest
    unranked = registry.read_suite(write_suite(tmp_path, gamma="gamma = 0.9\nranked = false"))
    assert (TOY.ranked, unranked.ranked) == (True, False)
    assert unranked.digest == TOY.digest


@pytest.mark.parametrize(("name", "digest"), [("merge", "259db3a72077"), ("roundabout", "22b73942a9e4")])
def test_the_digests_of_version_1_stay_so_that_its_records_stay_current(name, digest):
    spec = registry.get_suite(name)
    assert (spec.version, spec.digest) == (1, digest)


def test_an_agent_is_told_the_scale_of_the_state():
    for name in ("racetrack", "racetrack-frenet"):
        spec, game = registry.get_suite(name), smb.make(name)
        context = registry.make_context(spec, game, steps=1, seed=0)
        assert len(context.state_features.names) == game.state_space.shape[0] == 8
        assert len(context.observation_features["leader"].names) == game.observation_space("leader").shape[0]
    assert context.observation_features["follower"] == spec.features != context.state_features


def test_an_agent_class_can_be_registered_for_one_process(monkeypatch):
    monkeypatch.setattr(registry, "_registered_agents", {})
    smb.register_agent("mine", Counter)
    assert registry.get_agent("mine") is Counter
    with pytest.raises(RegistryError, match="agent name 'csq' is taken"):
        smb.register_agent("csq", Counter)
    with pytest.raises(RegistryError, match="not a subclass"):
        smb.register_agent("other", dict)


def test_the_tables_show_limits_and_why_a_pair_does_not_fit():
    suites = smb.list_suites().set_index("suite")
    assert suites.loc["toy@1", "cost limits"] == "leader<=1.0 follower<=1.0"
    assert "random" in suites.loc["toy@1", "agents"].split()
    assert suites.loc["merge@1", "backends"] == "kernel highway"
    assert suites.loc[["merge@1", "merge-official@1"], "leaderboard"].tolist() == ["yes", "no"]
    assert list(smb.list_agents()["agent"]) == registry.agent_names()


def test_a_broken_agent_package_does_not_hide_the_others(monkeypatch):
    points = {**registry._entry_point_agents(), "broken": "no_such_package:Agent"}
    monkeypatch.setattr(registry, "_entry_point_agents", lambda: points)
    agents = smb.list_agents().set_index("agent")
    assert "cannot import 'no_such_package'" in agents.loc["broken", "not on, because"]
    assert "merge" in agents.loc["random", "runs on"].split()
    assert "broken" not in " ".join(smb.list_suites()["agents"]).split()


def test_importing_the_plugin_costs_no_heavy_import():
    code = (
        "import sys, safemarl_bench.pytest_plugin; print({'torch', 'numpy', 'pandas', 'gymnasium'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_the_public_names_are_exactly_the_promised_ones():
    assert smb.__all__ == sorted(smb._HOMES)
    for name in smb.__all__:
        assert getattr(smb, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = smb.nonsense
    assert issubclass(ContractError, smb.SafeMARLBenchError)
