"""Exact references: the known values, where they are kept, and who may ask for which."""

import pytest

import safemarl_bench as smb
from safemarl_bench.errors import RegistryError
from safemarl_bench.weakly_coupled import charging_reference
from safemarl_bench.weakly_coupled.charging import ChargingModel


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_reference_has_the_known_values():
    known = smb.reference("ev_charging")
    assert known.optimum == pytest.approx(8.60198, abs=1e-5)
    assert known.random == pytest.approx(3.05563, abs=1e-5)
    assert set(known.heuristics) == {"greedy", "edf", "llf", "whittle", "lagrangian_greedy"}
    assert all(known.random < value <= known.optimum + 1e-9 for value in known.heuristics.values())
    assert known.bounds == (known.optimum, known.optimum)
    assert known.more["discounted, 50 decisions"]["optimum"] == pytest.approx(8.56014, abs=1e-5)
    assert known.more["undiscounted, 50 decisions"]["random"] == pytest.approx(14.6797, abs=1e-4)
    assert known.more["Lagrangian bounds"]["one multiplier"] == pytest.approx(8.932, abs=1e-3)


def test_edf_is_within_one_percent_in_the_code_preset():
    known = smb.reference("ev_charging", preset="code", n_bays=2)
    assert known.optimum == pytest.approx(5.16174, abs=1e-5)
    assert known.heuristics["edf"] > 0.99 * known.optimum


def test_a_reference_is_computed_once(monkeypatch, tmp_path):
    first = smb.reference("ev_charging", n_bays=2)
    (file,) = tmp_path.glob("safemarl_bench/*.json")
    assert charging_reference.digest(ChargingModel("text", 2)) in file.name
    monkeypatch.setattr(charging_reference, "compute", None)
    assert smb.reference("ev_charging", n_bays=2) == first
    assert smb.reference("ev_charging-2") == first


def test_every_model_has_a_digest_of_its_own():
    models = [ChargingModel(preset, n) for preset in ("text", "code") for n in (2, 3, 4, 5)]
    assert len({charging_reference.digest(model) for model in models}) == len(models)


def test_bad_settings_are_named():
    with pytest.raises(RegistryError, match=r"n_bays must be an integer in 1\.\.5, got 7"):
        smb.reference("ev_charging", n_bays=7)
