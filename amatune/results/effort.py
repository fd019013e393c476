"""What a search took, and how the states of its trials are told."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a search has taken so far, over all sessions."""

    trials: int  # that have ended
    done: int
    pruned: int
    failed: int
    epochs: int  # trained
    hours: float  # of training, added up over trials that ran at the same time
    gpu_hours: float  # of those, by share of a GPU


def state_text(state: str, *, over: bool) -> str:
    """What a state of a trial is called; when the search is `over`, nothing runs."""
    return "unfinished" if over and state == "running" else state
