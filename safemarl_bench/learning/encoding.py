"""What networks see of features: the normalised numbers, and on request sines and cosines of them.

A network of a few layers learns slowly what changes fast with its inputs: the heading of a road within a few metres of
a track of hundreds. Sines and cosines of doubling frequencies (Fourier features: Tancik et al., NeurIPS 2020) show it
such detail.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from safemarl_bench.contract import Features
from safemarl_bench.errors import ContractError

MAX_OCTAVES = 16
"""More than single precision can tell apart."""


def check_octaves(octaves: int) -> None:
    """Raise `ContractError` unless a config's octaves are a count up to 16."""
    if not 0 <= octaves <= MAX_OCTAVES:
        raise ContractError(f"config key 'octaves' must be in 0..{MAX_OCTAVES}, got {octaves}")


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A map from n raw features to ``n (1 + 2 octaves)`` numbers of the order of one.

    ``x``, then ``sin(pi 2^k x), cos(pi 2^k x)`` for k = 0 .. octaves - 1, x the normalised features.

    Attributes:
        features: how to normalise. octaves: 0 leaves x alone.
    """

    features: Features
    octaves: int = 0

    @property
    def width(self) -> int:
        """Length of what `encode` returns."""
        return len(self.features.names) * (1 + 2 * self.octaves)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Return what networks see; raw: (..., n), result: (..., `width`) float32."""
        x = self.features.normalise(raw)
        if not self.octaves:
            return x
        waves = [np.float32(np.pi * 2.0**k) * x for k in range(self.octaves)]
        return np.concatenate([x, *(wave(angle) for angle in waves for wave in (np.sin, np.cos))], axis=-1)
