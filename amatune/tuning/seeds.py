"""Seeds derived from the one that was asked for."""

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 31-bit seed that depends on `seed` and what it is for, and on nothing else.

    The same on every machine and in every version of Python and NumPy, so that "trial 12 of seed
    0" names one training. `derive_seed(0, "trial", 12)` and `derive_seed(0, "retrain", 1)` differ.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
