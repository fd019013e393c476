"""The splits of a problem: which images a detector learns from, which it is judged by.

Disjoint lists of ids, decided by the request and its seed alone:

    train normals          the training part of the normal set, less the next
    validation normals     5% of them when classes are normal, 1% when a whole set is; at least 50,
                           never more than 20%
    validation anomalies   50 (`val_anomalies`), from the training part of the anomaly sets
    test normals           the whole test part of the normal set
    test anomalies         20% of their number, at least 10, from the test part of the anomaly sets

and, where asked for, from what is left of the training part of the anomaly sets,

    train anomalies        labelled, to learn from: the share `anomaly_fraction` of them and the
                           train normals together (the paper's semi-supervised case)
    hidden anomalies       unlabelled among the train normals: the share `contamination` of both
                           together (a test of robustness)

Asking for these leaves the other lists as they are.

A folder without train/ and test/ lends half of its pictures to the test when it is an anomaly set,
all of them when it is one for the test alone, and 30% when it is the normal set, also of its
classes that are not normal. Where there are fewer anomalies than asked for, what is there is used,
and a warning says what that costs. Of the layouts `mvtec:` and `visa:`, half of each kind of defect
is in the training part, though published for the test, and the other half is tested, all of it.
Where they are a set of anomalies beside another normal set, their defects alone are.

Several anomaly sets, or classes, get equal shares; where one has too few the others share the rest.
A draw takes the ids whose SHA-256 with the seed comes first: the same on every machine and for
every version of NumPy, and an image added later displaces at most one other.

Making a problem decodes the training part, to pass over damaged pictures and to report copies. The
test images are decoded by `Problem.test_images`, never before; only where near copies are to be
kept together, they are looked at to leave copies of them out of the other lists.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from amatune.data.groups import NEAR_COPIES
from amatune.data.pictures import ImageShape, shape_text
from amatune.data.places import DataDir
from amatune.data.problem import Problem, open_for
from amatune.data.request import ASKED_ANOMALIES, ProblemRequest
from amatune.data.sources.base import PARTS, Id, Part, Source
from amatune.data.sources.defects import GOOD
from amatune.data.sources.files import real_files
from amatune.data.splits import Selection, Split, Splits, spoken
from amatune.data.strata import Sides, Stratum, draw, require_groups
from amatune.errors import DataError
from amatune.metrics import hanley_mcneil
from amatune.wording import counted, memory_size

MIN_ANOMALIES = 5  # fewer say nothing: an AUROC of .90 has a 95% interval of .54 to .99
LEAST_OF_A_SET = 2  # anomalies for a figure of one set among several
MIN_TEST_NORMALS = 10
MIN_NORMALS = 50  # in the training part; a fifth of them validate
TEST_SHARE = 0.2  # test anomalies per test normal


def make_problem(
    request: ProblemRequest, data_dir: DataDir = None, largest_side: int | None = None
) -> Problem:
    """Decide the splits of a request and decode the training part.

    Named sets are read from `data_dir`, or downloaded into it; see `data_folder` for None.
    `largest_side` is that of pictures in a folder which the method makes use of, in pixels; None:
    what is usual.

    Raises `DataError` when a set does not exist or cannot be used, when a class does not exist, or
    when there are too few images. Whatever else the user should know is in `Problem.warnings`.
    """
    normal, anomalies, test_groups, sources = _open(request, data_dir)
    normal.source.largest_side = largest_side
    sides = Sides.of(request, normal, anomalies, test_groups)
    if sides is not None:
        normal, anomalies = sides.normal, sides.anomalies
    train = normal.ids("train")
    test = normal.ids("test")
    _require_normals(request, len(train), len(test))
    validating = held_out(len(train), of_classes=normal.classes is not None)
    if sides is None:
        validation = set(draw(train, validating, request.seed, "validation normals"))
        validate, learn = anomalies, anomalies
    else:
        validation, validate, learn = sides.validation(request, validating)
        validating = len(validation)
    test_anomalies = max(ASKED_ANOMALIES, round(TEST_SHARE * len(test)))
    tested = _test_anomalies(test_groups, test_anomalies, request.seed)
    if all(group.source.tells_defects for group in test_groups):
        test_anomalies = sum(len(selection.ids) for selection in tested)
    to_choose_by = _spread(validate, "train", request.val_anomalies, request.seed)
    labelled, hidden = _training_anomalies(
        request, len(train) - validating, learn, taken=to_choose_by
    )
    splits = Splits(
        train_normals=_one(normal, "train", [i for i in train if i not in validation]),
        validation_normals=_one(normal, "train", [i for i in train if i in validation]),
        validation_anomalies=to_choose_by,
        train_anomalies=labelled,
        hidden_anomalies=hidden,
        test_normals=_one(normal, "test", test),
        test_anomalies=tested,
    )
    wanted = {"validation_anomalies": request.val_anomalies, "test_anomalies": test_anomalies}
    _require_anomalies(splits, wanted, sources)
    if sides is not None:
        splits = sides.named(splits)
    problem = Problem(request, _image_shape(request, normal.source), splits, sources)
    problem.require_masks()
    _require_memory(problem)
    if sides is not None and sides.left_out:
        problem.warnings.append(
            f"{sides.left_out} images of the training part left out, their groups are in the test"
        )
    if request.keep_together is not None or request.group_by == NEAR_COPIES:
        problem.separate()
    problem.warnings += require_groups(problem)
    duplicates = problem.duplicates(
        [
            ("train_normals", "validation_normals"),
            ("train_normals", "validation_anomalies"),
            ("validation_normals", "validation_anomalies"),
            ("train_anomalies", "validation_anomalies"),
            ("hidden_anomalies", "validation_anomalies"),
        ]
    )
    problem.update_warnings()
    # Once more: damaged ones have left.
    counts = problem.splits.counts()
    _require_normals(
        request, counts["train_normals"] + counts["validation_normals"], counts["test_normals"]
    )
    _require_anomalies(problem.splits, wanted, sources)
    train_normals = problem.images("train_normals")
    if all(np.array_equal(image, train_normals[0]) for image in train_normals):
        raise DataError(
            f"all {len(train_normals)} training images of {request.dataset} look the same at "
            f"{' x '.join(map(str, problem.image_shape))}: there is nothing to learn from them; "
            "add different ones"
        )
    problem.warnings += [
        *_shortages(problem.splits, wanted),
        *_small_sets(problem.splits),
        *_published_defects(problem.splits, sources),
        *duplicates,
    ]
    return problem


def held_out(train: int, *, of_classes: bool) -> int:
    """How many of the normal images of the training part validate."""
    return min(max(50, round((0.05 if of_classes else 0.01) * train)), train // 5)


def share_out(total: int, available: Sequence[int]) -> list[int]:
    """Split `total` as equally as `available` allows; the first get what does not divide.

    The shares sum to `total`, or to everything available when that is less.
    """
    shares = [0] * len(available)
    left = min(total, sum(available))
    while left:
        open_ones = [i for i, most in enumerate(available) if shares[i] < most]
        equal = max(1, left // len(open_ones))
        for i in open_ones:
            given = min(equal, available[i] - shares[i], left)
            shares[i] += given
            left -= given
    return shares


def _open(
    request: ProblemRequest, data_dir: DataDir
) -> tuple[Stratum, list[Stratum], list[Stratum], dict[str, Source]]:
    """What is normal, the strata of what is not, those of the test, and every source by its name.

    All opened anew: a source's parts depend on what it is for.
    """
    source = open_for(request, request.dataset, data_dir)
    if source.image_shape is None:
        raise DataError(f"{request.dataset} cannot be the normal set, name it as --ood")
    normal = request.normal
    if not normal and not request.ood:
        classes = f" (its classes: {_listed(source.class_names)})" if source.class_names else ""
        raise DataError(
            f"{request.dataset} says what is normal but not what is anomalous: add --ood NAME, or "
            f"--normal-class CLASS to make the other classes anomalous{classes}"
        )
    others = _other_classes(request.dataset, source, normal) if normal else ()
    group = Stratum(source, frozenset(normal) if normal else None)
    if not request.ood:
        if not others:
            raise DataError(
                f"every class of {request.dataset} is normal, none is left to be anomalous: name "
                "fewer with --normal-class, or add --ood NAME"
            )
        anomalies = [Stratum(source, frozenset({c})) for c in others]
    else:
        anomalies = _anomaly_sets(request, data_dir, "ood", group, others, ())
    for_test = anomalies
    if request.test_ood:
        for_test = _anomaly_sets(request, data_dir, "test_ood", group, others, anomalies)
    groups = (group, *anomalies, *for_test)
    return group, anomalies, for_test, {g.source.name: g.source for g in groups}


def _anomaly_sets(
    request: ProblemRequest,
    data_dir: DataDir,
    option: str,
    normal: Stratum,
    others: Collection[str],
    known: Sequence[Stratum],
) -> list[Stratum]:
    """The strata that `option` of the request names; a source in `known` is not opened again."""
    source = normal.source
    anomalies: list[Stratum] = []
    for name in getattr(request, option):
        ood = open_for(request, name, data_dir)
        usual = 0.5 if request.group_by is None else ood.test_share
        ood.test_share = usual if option == "ood" else 1.0
        flag = f"--{option.replace('_', '-')}"
        if ood.name in {other.source.name for other in anomalies}:
            raise DataError(f"{flag} {name} is given twice")
        own = ood.name == source.name
        if own and not others:
            raise DataError(
                f"{name} is both the normal set and an anomaly set; name another {flag}, or "
                "classes with --normal-class to make its other classes anomalous"
            )
        again = [g.source for g in known if g.source.name == ood.name]
        if own:
            new = Stratum(source, frozenset(others))
        else:
            new = _anomalies_of(again[0] if again else ood)
        for other in (normal, *anomalies, *known):
            if other.source is not new.source or other is normal:
                _refuse_common_files(other, new)
        anomalies.append(new)
    return anomalies


def _other_classes(name: str, source: Source, normal: Collection[str]) -> tuple[str, ...]:
    if not source.class_names:
        raise DataError(f"--normal-class cannot be used with {name}: {source.why_no_classes}")
    unknown = [c for c in normal if c not in source.class_names]
    if unknown:
        raise DataError(
            f"{name} has no class {', '.join(map(repr, unknown))}; its classes: "
            f"{_listed(source.class_names)}"
        )
    return tuple(c for c in source.class_names if c not in normal)


def _anomalies_of(source: Source) -> Stratum:
    """All images of a set of anomalies, but for the good ones of a set that tells which these
    are."""
    if source.tells_defects:
        return Stratum(source, frozenset(source.class_names) - {GOOD})
    return Stratum(source)


def _refuse_common_files(first: Stratum, second: Stratum) -> None:
    """Folders may lie within each other, pictures may not be in two sets."""
    files = [
        set(real_files(group.source.location, (one for part in PARTS for one in group.ids(part))))
        for group in (first, second)
        if group.source.location is not None and group.source.location.is_dir()
    ]
    common = files[0] & files[1] if len(files) == 2 else None
    if common:
        raise DataError(
            f"{first.source.name} and {second.source.name} have {len(common)} pictures in common, "
            f"for example {min(common)}; sets must not overlap"
        )


def _image_shape(request: ProblemRequest, source: Source) -> ImageShape:
    shape = source.image_shape
    if shape is None:
        raise DataError(f"{request.dataset} cannot be the normal set, name it as --ood")
    channels, height, width = shape
    if isinstance(request.image_size, int):
        height = width = request.image_size
    elif request.image_size is not None:
        height, width = request.image_size
    return request.channels or channels, height, width


def _one(group: Stratum, part: Part, ids: Sequence[Id]) -> Split:
    return (Selection(group.source.name, part, tuple(ids)),)


def _training_anomalies(
    request: ProblemRequest, normals: int, groups: Sequence[Stratum], taken: Split
) -> tuple[Split, Split]:
    """The anomalies to learn from, labelled and hidden; raises `DataError` when there are too few.

    Hidden ones are drawn first: they stay the same whatever is labelled.
    """
    drawn: dict[str, Split] = {}
    for name in ("contamination", "anomaly_fraction"):
        share = getattr(request, name)
        wanted = round(share / (1 - share) * normals)
        drawn[name] = _spread(groups, "train", wanted, request.seed, name, taken)
        found = sum(len(selection.ids) for selection in drawn[name])
        if found < wanted:
            raise DataError(
                f"{name} {share:g} needs {wanted} anomalies beside {normals} normal images; the "
                f"training part of {', '.join(sorted({g.source.name for g in groups}))} has "
                f"{found} left, enough for {math.floor(1000 * found / (found + normals)) / 1000:g}"
            )
        taken = (*taken, *drawn[name])
    return drawn["anomaly_fraction"], drawn["contamination"]


def _spread(
    groups: Sequence[Stratum],
    part: Part,
    total: int,
    seed: int,
    purpose: str = "anomalies",
    taken: Split = (),
) -> Split:
    """Draw `total` anomalies not `taken`, the same number from each stratum; one selection per
    source."""
    if total == 0:
        return ()
    used = {key for selection in taken for key in selection.identities()}
    available = [
        [one for one in group.ids(part) if (group.source.name, part, one) not in used]
        for group in groups
    ]
    drawn: dict[str, list[Id]] = {}
    for group, ids, share in zip(
        groups, available, share_out(total, [len(ids) for ids in available]), strict=True
    ):
        drawn.setdefault(group.source.name, []).extend(draw(ids, share, seed, f"{part} {purpose}"))
    order = {g.source.name: {one: i for i, one in enumerate(g.source.ids(part))} for g in groups}
    return tuple(
        Selection(name, part, tuple(sorted(ids, key=order[name].__getitem__)))
        for name, ids in drawn.items()
    )


def _test_anomalies(groups: Sequence[Stratum], total: int, seed: int) -> Split:
    """Of sets that tell kinds of defect all, of the others `total`, in the order of the groups."""
    defects = [group for group in groups if group.source.tells_defects]
    others = [group for group in groups if not group.source.tells_defects]
    whole = sum(len(group.ids("test")) for group in defects)
    drawn = {
        selection.source: selection
        for selection in (
            *_spread(defects, "test", whole, seed),
            *_spread(others, "test", total, seed),
        )
    }
    names = dict.fromkeys(group.source.name for group in groups)
    return tuple(drawn[name] for name in names if name in drawn)


def _published_defects(splits: Splits, sources: Mapping[str, Source]) -> list[str]:
    """Of test anomalies that were published for a test, half of which chooses here."""
    messages = []
    for selection in splits.test_anomalies:
        source = sources[selection.source]
        tested = sum(source.kind(one) != GOOD for one in selection.ids)
        if source.tells_defects and tested:
            choosing = sum(label != GOOD for label in source.labels("train"))
            messages.append(
                f"{source.name}: its {counted(choosing + tested, 'defect')} were all published for "
                f"the test; half of each kind, {choosing}, may choose settings and the other "
                f"{tested} are tested, so that figures are not those of its whole test part"
            )
    return messages


def _require_normals(request: ProblemRequest, train: int, test: int) -> None:
    if train < MIN_NORMALS or test < MIN_TEST_NORMALS:
        raise DataError(
            f"too few normal images in {request.dataset}: {train} in the training part (at least "
            f"{MIN_NORMALS} needed) and {test} in the test part (at least {MIN_TEST_NORMALS} "
            "needed)"
        )


def _require_memory(problem: Problem) -> None:
    """Raise `DataError` before more is decoded than this machine could hold."""
    counts = problem.splits.counts()
    images = sum(count for name, count in counts.items() if not name.startswith("test"))
    needed, there = images * math.prod(problem.image_shape), machine_memory()
    if needed > there:
        raise DataError(
            f"{images:,} images of {shape_text(problem.image_shape)} are {memory_size(needed)}, "
            f"this machine has {memory_size(there)}; choose a smaller --image-size"
        )


def machine_memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


def _require_anomalies(
    splits: Splits, wanted: Mapping[str, int], sources: Mapping[str, Source]
) -> None:
    for name in wanted:
        found = splits.counts()[name]
        if found < MIN_ANOMALIES:
            split = splits.by_name()[name]
            part = "test" if name.startswith("test") else "training"
            what_to_do = {sources[s.source].more_anomalies for s in split}
            raise DataError(
                f"too few anomalies: the {part} part of {', '.join(s.source for s in split)} has "
                f"{found}, at least {MIN_ANOMALIES} are needed; {'; '.join(sorted(what_to_do))}"
            )


def _shortages(splits: Splits, wanted: Mapping[str, int]) -> list[str]:
    """What fewer anomalies than asked for cost."""
    counts = splits.counts()
    messages = []
    for name, asked in wanted.items():
        if counts[name] < asked:
            normals = counts[name.replace("anomalies", "normals")]
            messages.append(
                f"only {counts[name]} of {asked} {spoken(name)} could be found: an AUROC of .90 "
                f"then has a 95% interval of {_interval(counts[name], normals)}, instead of "
                f"{_interval(asked, normals)}"
            )
    return messages


def _small_sets(splits: Splits) -> list[str]:
    """Of several sets of anomalies, those too small for what is told of each."""
    messages = []
    for name, cost in (
        ("validation_anomalies", "it has next to no say in what is chosen"),
        ("test_anomalies", "there are no figures of its own"),
    ):
        split = splits.by_name()[name]
        for own in split if len(split) > 1 else ():
            if len(own.ids) < LEAST_OF_A_SET:
                count = f"only {len(own.ids)} of the" if own.ids else "none of the"
                messages.append(f"{own.source} has {count} {spoken(name)}: {cost}")
    return messages


def _interval(anomalies: int, normals: int) -> str:
    """What to expect around an AUROC of .90, by Hanley and McNeil on the logit scale."""
    error = hanley_mcneil(0.9, anomalies, normals) / (0.9 * 0.1)
    low, high = (1 / (1 + math.exp(-(math.log(9) + z * error))) for z in (-1.96, 1.96))
    return f"{low:.2f} to {high:.2f}"


def _listed(names: Sequence[str], most: int = 40) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
