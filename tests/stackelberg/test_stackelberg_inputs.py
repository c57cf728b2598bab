"""Invalid input: one clear line each, before any solver sees it."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import SolveError

NAMES = ("Q1", "Q2", "G1", "G2")


def tables(dtype=np.float64):
    return dict(zip(NAMES, np.zeros((4, 3, 2, 2), dtype), strict=True))


def solve(given, d1=0.0, d2=0.0, **options):
    return stackelberg.solve(*(given[name] for name in NAMES), d1, d2, **options)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("backend", stackelberg.BACKENDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("Q1", np.nan), ("Q1", np.inf), ("Q1", -np.inf), ("Q2", np.nan), ("Q2", np.inf), ("G1", np.nan), ("G2", np.nan)],
)
def test_nan_and_infinite_entries_are_named_with_their_place(name, value, backend, library):
    given = tables()
    given[name][2, 0, 1] = value
    if library == "torch":
        given = {key: torch.from_numpy(table) for key, table in given.items()}
    with pytest.raises(SolveError, match=rf"^{name} has 1 NaN.*\(2, 0, 1\)"):
        solve(given, backend=backend)


def test_an_infinity_of_one_table_cannot_hide_in_another():
    given = tables()
    given["Q1"][0], given["Q2"][0] = np.inf, -np.inf
    with pytest.raises(SolveError, match=r"^Q1 has 4"):
        solve(given)


def test_large_finite_rewards_are_legal_though_their_sum_overflows():
    given = tables()
    given["Q1"][:] = 1.7e308
    given["G1"][0], given["G1"][1] = np.inf, -np.inf
    assert solve(given).feasible.tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["Q2", "G1", "G2"])
def test_mismatched_shapes_are_refused(name):
    given = tables()
    given[name] = np.zeros((3, 2, 3))
    with pytest.raises(SolveError, match=rf"{name}.*\(3, 2, 2\).*\(3, 2, 3\)"):
        solve(given)


@pytest.mark.parametrize("name", NAMES)
def test_one_table_of_another_dtype_is_refused(name):
    given = tables()
    given[name] = given[name].astype(np.float32)
    with pytest.raises(SolveError, match="one dtype"):
        solve(given)


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.bool_, np.complex128])
def test_tables_that_are_not_float32_or_float64_are_refused(dtype):
    with pytest.raises(SolveError, match=f"float32 or float64, got Q1 of dtype {np.dtype(dtype)}"):
        solve(tables(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_mixed_libraries_are_refused(name):
    given = tables()
    given[name] = torch.from_numpy(given[name])
    with pytest.raises(SolveError, match="all numpy arrays or all torch tensors"):
        solve(given)
    given[name] = given["Q1" if name != "Q1" else "Q2"].tolist()
    with pytest.raises(SolveError, match=r"builtins\.list"):
        solve(given)


@pytest.mark.parametrize("shape", [(2,), (3, 0, 2), (3, 2, 0)])
def test_tables_without_actions_are_refused(shape):
    with pytest.raises(SolveError, match="at least one action"):
        solve(dict.fromkeys(NAMES, np.zeros(shape)))


@pytest.mark.parametrize(
    ("option", "given", "hint"),
    [
        ("semantics", "mip31", "mip13"),
        ("tie", "optimist", "optimistic"),
        ("fallback", "least_violations", "least_violation"),
        ("backend", "numpi", "numpy"),
    ],
)
def test_unknown_options_name_the_nearest(option, given, hint):
    with pytest.raises(SolveError, match=f"unknown {option} '{given}': did you mean .*'{hint}'"):
        solve(tables(), **{option: given})
    with pytest.raises(SolveError, match=f"unknown {option} None"):
        solve(tables(), **{option: None})


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.0, -1.0), (np.inf, 1.0), (np.nan, 1.0), (1.0,), 2.0, "ab", (1, 2, 3)])
def test_a_bad_scale_is_refused(scale):
    with pytest.raises(SolveError, match="two positive finite numbers"):
        solve(tables(), scale=scale)


def test_a_scale_that_is_zero_in_the_tables_dtype_is_refused():
    with pytest.raises(SolveError, match="scale"):
        solve(tables(np.float32), scale=(1e-60, 1.0))


@pytest.mark.parametrize(
    ("d1", "message"),
    [
        (np.nan, "d1 must not be NaN"),
        ("low", "d1 must be a number"),
        (None, "d1 must be a number"),
        ("0.5", "d1 must be a number"),
        (True, "d1 must be a number"),
        (np.zeros(2), r"d1 must have shape \(\) or \(3,\).*got \(2,\)"),
        (np.array([0.0, np.nan, 0.0]), r"d1 has 1 NaN.*\(1,\)"),
        (torch.zeros(3), "d1 must be a number or of the library"),
        ([0.0, [1.0]], "d1 must be a number or an array"),
    ],
)
def test_bad_limits_are_refused(d1, message):
    with pytest.raises(SolveError, match=message):
        solve(tables(), d1=d1)


def test_several_constraints_need_several_limits():
    given = tables()
    given["G2"] = np.zeros((2, 3, 2, 2))
    assert solve(given, d2=[0.0, 1.0]).feasible.all()
    with pytest.raises(SolveError, match=r"d2 must have shape \(2,\) or \(2, 3\)"):
        solve(given, d2=0.0)
    given["G2"] = np.zeros((0, 3, 2, 2))
    with pytest.raises(SolveError, match="G2 must have the shape"):
        solve(given, d2=[])


def test_a_limit_is_rounded_once_to_the_dtype_of_the_tables():
    given = tables(np.float32)
    given["G1"][:] = np.float32(0.1)
    for backend in ("python", "numpy", "torch"):
        for d1 in (0.1, [0.1] * 3, np.full(3, 0.1), np.float64(0.1), np.array(0.1)):
            assert solve(given, d1=d1, backend=backend).feasible.all()


def test_importing_the_core_imports_no_solver_and_no_torch():
    code = (
        "import sys, numpy as np, safemarl_bench.stackelberg as s; s.solve(*np.zeros((4, 2, 2)), 0, 0, check=True); "
        "print([m for m in ('torch', 'cvxpy', 'highspy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"


def test_the_public_names_are_sorted_and_exist():
    assert stackelberg.__all__ == sorted(stackelberg.__all__)
    assert all(hasattr(stackelberg, name) for name in stackelberg.__all__)
    assert list(stackelberg.BACKENDS) == sorted(stackelberg.BACKENDS)
