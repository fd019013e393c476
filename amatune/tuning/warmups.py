"""Warm-ups that trials have in common.

Some settings do nothing in the first epochs: AMA's negatives start after a warm-up. Configurations
that differ in those alone are then one and the same training, given one seed. Such trials get it,
and where a search is likely to meet the same warm-up again, the first trial that has finished it
leaves its state to the others.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from amatune.config import DetectorConfig
from amatune.detector import Detector
from amatune.errors import ConfigError
from amatune.tuning.study import HeldFixed, Space, random_trials

_DRAWS = 32  # random settings; with 100 different warm-ups, two of them agree in 99 of 100 searches


def warm_up_name(method: type[Detector], config: DetectorConfig) -> str | None:
    """What the first `config.warmup_epochs` epochs of a training depend on, as a short name.

    None when there is no warm-up that leaves settings out of account.
    """
    if not method.inert_in_warmup or config.warmup_epochs < 1:
        return None
    decisive = {k: v for k, v in config.to_dict().items() if k not in method.inert_in_warmup}
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def warm_ups_repeat(
    space: Space,
    fixed: Mapping[str, Any],
    complete: Callable[[Mapping[str, Any]], DetectorConfig],
    name: Callable[[DetectorConfig], str | None],
) -> bool:
    """Whether random settings of a space often begin with the same warm-up.

    They do when what decides it is held fixed or has few values; a learning rate drawn from an
    interval makes every warm-up another one, and keeping them would only cost.
    """
    names = []
    for trial in random_trials(_DRAWS):
        try:
            names.append(name(complete({**space(HeldFixed(trial, fixed)), **fixed})))
        except ConfigError:
            continue
    found = [one for one in names if one is not None]
    return len(set(found)) < len(found)
