"""Checkpoints without pickles: tensors as safetensors, the rest as JSON, each file written at once or not at all.

A checkpoint called `name` is two files in a folder, ``name.safetensors`` and ``name.json``. The
JSON holds a sha256 over both contents, so that edited files, and halves of two different
checkpoints, are told apart.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from safemarl_bench.errors import CheckpointError

FORMAT = "safemarl_bench.checkpoint/1"


def write_checkpoint(folder: Path, name: str, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write ``folder/name.safetensors`` and then ``folder/name.json``, replacing older ones.

    Args:
        folder: created if needed.
        name: a file name without suffix.
        tensors: arrays by name.
        meta: what JSON can hold, without NaN or inf.

    Raises:
        CheckpointError: `meta` is no JSON, or the folder cannot be written.
    """
    payload = safetensors.numpy.save({key: np.ascontiguousarray(tensors[key]) for key in sorted(tensors)})
    try:
        document = {"format": FORMAT, "meta": json.loads(json.dumps(dict(meta), allow_nan=False))}
        text = json.dumps(document | {"sha256": _digest(payload, document["meta"])}, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"meta of checkpoint {name!r} is no JSON: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / f"{name}.safetensors", payload)
        _replace(folder / f"{name}.json", text.encode())
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {name!r} to {folder}: {error}") from error


def read_checkpoint(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the (tensors, meta) that `write_checkpoint` wrote.

    Raises:
        CheckpointError: a file is missing, corrupt, or from elsewhere.
    """
    folder = Path(folder)
    document = _read_document(folder / f"{name}.json")
    path = folder / f"{name}.safetensors"
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint file {path} cannot be read: {error.strerror}") from error
    if _digest(payload, document["meta"]) != document["sha256"]:
        raise CheckpointError(f"checkpoint file {path} is not the one that {name}.json was written with")
    try:
        return safetensors.numpy.load(payload), document["meta"]
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"checkpoint file {path} is corrupt: {error}") from error


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"checkpoint file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"checkpoint file {path} is corrupt: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint file {path} is not of format {FORMAT!r}")
    if not isinstance(document.get("meta"), dict) or not isinstance(document.get("sha256"), str):
        raise CheckpointError(f"checkpoint file {path} lacks its meta or its sha256")
    return document


def _digest(payload: bytes, meta: Any) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode() + payload).hexdigest()


def _replace(path: Path, payload: bytes) -> None:
    """Write a file so that after a crash it holds either the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must reach the disk too
    finally:
        os.close(directory)


def folder_digest(folder: Path) -> tuple[str, int]:
    """Return (sha256, bytes) over all files below a folder: relative names, sizes and contents, sorted by name.

    Raises:
        CheckpointError: no such folder, or it holds no file.
    """
    files = sorted((path.relative_to(folder).as_posix(), path) for path in Path(folder).rglob("*") if path.is_file())
    if not files:
        raise CheckpointError(f"checkpoint folder {folder} is missing or empty")
    digest, total = hashlib.sha256(), 0
    for name, path in files:
        content = path.read_bytes()
        digest.update(f"{len(name.encode())}:{name}{len(content)}:".encode())
        digest.update(content)
        total += len(content)
    return digest.hexdigest(), total
