"""Problems in one line, and the identities of their images."""

from amatune.data.protocol import make_problem
from amatune.data.request import ProblemRequest


def problem(**fields):
    """The problem of a request with these fields."""
    return make_problem(ProblemRequest(**fields))


def ids(a_problem):
    """The identities of the images of each split."""
    return {
        name: {identity for selection in split for identity in selection.identities()}
        for name, split in a_problem.splits.by_name().items()
    }
