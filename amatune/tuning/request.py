"""Where the request of a search used to be."""

from amatune.runs.request import Sampler, Scheduler, SearchRequest

__all__ = ["Sampler", "Scheduler", "SearchRequest"]
