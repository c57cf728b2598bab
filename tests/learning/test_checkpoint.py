"""Checkpoints: what is written is read back, and nothing else is."""

import json

import numpy as np
import pytest

from safemarl_bench.checkpoint import folder_digest, read_checkpoint, write_checkpoint
from safemarl_bench.errors import CheckpointError

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "mask": np.array([True, False]), "n": np.array([2**60])}
META = {"step": 7, "names": ["a", "b"]}


def test_what_is_written_is_read_back_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path / "new" / "folder", "agent", TENSORS, META)
    tensors, meta = read_checkpoint(tmp_path / "new" / "folder", "agent")
    assert meta == META
    assert set(tensors) == set(TENSORS)
    for name, array in TENSORS.items():
        assert tensors[name].dtype == array.dtype
        assert np.array_equal(tensors[name], array)


def test_transposed_arrays_keep_their_values(tmp_path):
    write_checkpoint(tmp_path, "agent", {"w": TENSORS["w"].T}, {})
    assert np.array_equal(read_checkpoint(tmp_path, "agent")[0]["w"], TENSORS["w"].T)


def test_writing_again_replaces_and_leaves_no_temporary_files(tmp_path):
    write_checkpoint(tmp_path, "agent", TENSORS, META)
    write_checkpoint(tmp_path, "agent", {"w": np.zeros(1)}, {"step": 8})
    assert read_checkpoint(tmp_path, "agent")[1] == {"step": 8}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.json", "agent.safetensors"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"agent\.json cannot be read"):
        read_checkpoint(tmp_path, "agent")


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_truncated_tensors_are_refused(tmp_path, cut):
    write_checkpoint(tmp_path, "agent", TENSORS, META)
    path = tmp_path / "agent.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="is not the one"):
        read_checkpoint(tmp_path, "agent")


def test_halves_of_two_checkpoints_are_told_apart(tmp_path):
    write_checkpoint(tmp_path / "a", "agent", TENSORS, META)
    write_checkpoint(tmp_path / "b", "agent", {"w": np.ones(3)}, META)
    (tmp_path / "a" / "agent.safetensors").replace(tmp_path / "b" / "agent.safetensors")
    with pytest.raises(CheckpointError, match="is not the one"):
        read_checkpoint(tmp_path / "b", "agent")


def test_edited_meta_is_refused(tmp_path):
    write_checkpoint(tmp_path, "agent", TENSORS, META)
    path = tmp_path / "agent.json"
    path.write_text(path.read_text().replace('"step": 7', '"step": 8'))
    with pytest.raises(CheckpointError, match="is not the one"):
        read_checkpoint(tmp_path, "agent")


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"format": "other/1"}), "\xff"])
def test_foreign_json_is_refused(tmp_path, text):
    write_checkpoint(tmp_path, "agent", TENSORS, META)
    (tmp_path / "agent.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"agent\.json"):
        read_checkpoint(tmp_path, "agent")


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": np.arange(2)}, {"x": {1, 2}}])
def test_meta_that_is_no_json_is_refused_before_anything_is_written(tmp_path, meta):
    with pytest.raises(CheckpointError, match="no JSON"):
        write_checkpoint(tmp_path, "agent", TENSORS, meta)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write checkpoint 'agent'"):
        write_checkpoint(tmp_path / "file" / "below", "agent", TENSORS, META)


def test_the_digest_of_a_folder_depends_on_names_and_bytes_alone(tmp_path):
    for folder in ("a", "b"):
        write_checkpoint(tmp_path / folder, "agent", TENSORS, META)
    digest, size = folder_digest(tmp_path / "a")
    assert (digest, size) == folder_digest(tmp_path / "b")
    assert size == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    (tmp_path / "b" / "agent.json").rename(tmp_path / "b" / "agent2.json")
    assert folder_digest(tmp_path / "b")[0] != digest
    with pytest.raises(CheckpointError, match="missing or empty"):
        folder_digest(tmp_path / "c")
