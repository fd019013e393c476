"""The tables of Somepalli et al., UAI 2021: their rows, columns and published figures.

A row is a method, or AMA with a part of it held away; a column is a problem. Figures are AUROC. Of
AMA the published score is A; what the validation anomalies find best is a row of its own, and so is
R: three rows that one run fills. GANomaly has no row in the paper, but the figures printed as
Skip-GANomaly on MNIST cite it: both have a row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHOSEN = ""  # in the place of a score: the one that ranked the run's pictures
CLAIMED = "ama"  # the row that the paper has first
CLAIMED_CHOSEN = "ama-chosen"  # the same with its score by validation


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method as it stands in a table."""

    name: str  # on the command line
    title: str
    method: str
    fixed: Mapping[str, Any] = field(default_factory=dict)  # beside what the scale holds fixed
    score: str = CHOSEN  # whose figure is shown
    run: str = ""  # row whose run it is read from; "": its own
    # The row that it is compared with, whose score is chosen by the same rule; "": with none.
    beside: str = CLAIMED_CHOSEN

    @property
    def origin(self) -> str:
        """The row whose run it is read from, which may be itself."""
        return self.run or self.name


@dataclass(frozen=True, kw_only=True)
class Column:
    """A problem: what is normal, and what is not."""

    name: str  # on the command line
    title: str
    dataset: str
    normal_class: int | None = None  # its place among the classes of the set; None: the whole set
    ood: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows, columns, and what was published."""

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    published: Mapping[str, Mapping[str, float]]  # row -> column -> AUROC
    # Where a published figure is doubtful, and what differs in protocol: by row, "" for all.
    notes: tuple[tuple[str, str], ...] = ()
    # Columns whose mean over problems is compared, by what they are called together.
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _published(columns: tuple[Column, ...], text: str) -> Mapping[str, Mapping[str, float]]:
    """Of each row its name and a figure for each column, `-` where there is none."""
    names = [column.name for column in columns]
    words = iter(text.split())
    found = {}
    for row in words:
        given = [(name, next(words)) for name in names]
        found[row] = {name: float(figure) for name, figure in given if figure != "-"}
    return found


_ONE_SEED = (
    "",
    "The paper's figures are single trainings without intervals; of AMA's, the epoch was picked by "
    "validation anomalies of the test's own source. Here the last epoch counts.",
)
_NO_NEGATIVES = (
    "ama",
    "AMA's defaults have no negatives: where a search keeps them, the row is that without atypical "
    "selection, and not the published game.",
)

# --- Table 1 --------------------------------------------------------------------------------------

_SETS = {
    "fashion-mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "omniglot": "Omniglot",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "imagenet-resize": "ImageNet",
}
_AGAINST = {
    "fashion-mnist": ("mnist", "omniglot"),
    "cifar10": ("svhn", "imagenet-resize", "cifar100"),
    "svhn": ("cifar10", "imagenet-resize", "cifar100"),
}
_PAIRS = tuple(
    Column(
        name=f"{normal}-{other}",
        title=f"{_SETS[normal]} / {_SETS[other]}",
        dataset=normal,
        ood=(other,),
    )
    for normal, others in _AGAINST.items()
    for other in others
)
_AMA = (
    Row(name=CLAIMED, title="AMA", method="ama", score="A", beside=""),
    Row(name="ama-r", title="AMA, R instead of A", method="ama", score="R", run=CLAIMED, beside=""),
    Row(
        name=CLAIMED_CHOSEN, title="AMA, score by validation", method="ama", run=CLAIMED, beside=""
    ),
)
_ABLATIONS = (
    Row(
        name="ama-whole",
        title="AMA with all its parts",
        method="ama",
        fixed={"negative_share": 0.1, "k": 3},
        score="A",
        beside=CLAIMED,
    ),
    Row(
        name="ama-unmirrored",
        title="AMA without mirrored pairs",
        method="ama",
        fixed={"negative_share": 0.1, "k": 3, "mirrored": False},
        score="A",
        beside="ama-whole",
    ),
    Row(
        name="ama-no-simplex",
        title="AMA without interpolation",
        method="ama",
        fixed={"negative_share": 0.1, "k": 1},
        score="A",
        beside="ama-whole",
    ),
    Row(
        name="ama-no-atypical",
        title="AMA without atypical selection",
        method="ama",
        fixed={"negative_share": 0.0, "k": 3},
        score="A",
        beside="ama-whole",
    ),
)
_DEEP_SVDD = Row(name="deep-svdd", title="Deep SVDD", method="deep-svdd")
_ALAD = Row(name="alad", title="ALAD", method="alad")

TABLE_1 = Table(
    name="table1",
    title="Table 1: one data set is normal, another is not",
    rows=(
        Row(name="waic", title="WAIC, WGAN ensemble", method="waic"),
        Row(name="likelihood-ratio", title="Likelihood ratio", method="likelihood-ratio"),
        Row(name="typicality", title="Typicality, one image", method="typicality"),
        _DEEP_SVDD,
        Row(name="s-score", title="S score", method="s-score"),
        *_AMA,
        *_ABLATIONS,
    ),
    columns=_PAIRS,
    published=_published(
        _PAIRS,
        """
        waic             .871 .832 .623 .626 -    -    -     -
        likelihood-ratio .994 -    .931 -    -    -    -     -
        typicality       .140 -    .420 .640 -    .980 1.000 -
        deep-svdd        .864 .999 .533 .387 .478 .795 .823  .819
        s-score          .967 1.000 .929 .589 .535 -   -     -
        ama              .987 .998 .958 .911 .551 .993 1.000 .988
        ama-r            .991 .997 .442 .890 .501 .993 1.000 .988
        ama-whole        .987 .998 .958 .911 .551 .993 1.000 .988
        ama-unmirrored   .653 .899 .800 .526 .510 .503 .693  .592
        ama-no-simplex   .960 .998 .820 .847 .537 .991 .993  .987
        ama-no-atypical  .894 .997 .861 .812 .535 .990 .991  .987
        """,
    ),
    notes=(
        _ONE_SEED,
        _NO_NEGATIVES,
        (
            "typicality",
            "Typicality's published row is very probably not AUROC but the share of groups of two "
            "images that a test rejects; here one image is scored.",
        ),
        *(
            (
                row,
                f"The published row of {title} was copied from its own paper, with other networks, "
                "images and choices.",
            )
            for row, title in (
                ("waic", "WAIC"),
                ("likelihood-ratio", "the likelihood ratio"),
                ("s-score", "the S score"),
            )
        ),
        (
            "ama-whole",
            "AMA is searched with all its settings free; the ablations and the row they are "
            "compared with have negatives and interpolation held as the row says.",
        ),
    ),
)

# --- Table 2 --------------------------------------------------------------------------------------

_CIFAR = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_DIGITS = tuple(
    Column(name=f"mnist-{digit}", title=f"digit {digit}", dataset="mnist", normal_class=digit)
    for digit in range(10)
)
_OBJECTS = tuple(
    Column(name=f"cifar10-{name}", title=name, dataset="cifar10", normal_class=number)
    for number, name in enumerate(_CIFAR)
)

TABLE_2 = Table(
    name="table2",
    title="Table 2: one class is normal, the others are not",
    rows=(
        Row(name="fence-gan", title="Fence GAN", method="fence-gan"),
        _ALAD,
        Row(name="anogan", title="AnoGAN", method="anogan"),
        Row(name="ganomaly", title="GANomaly", method="ganomaly"),
        Row(name="skip-ganomaly", title="Skip-GANomaly", method="skip-ganomaly"),
        _DEEP_SVDD,
        *_AMA,
        Row(name="features", title="Frozen features (not in the paper)", method="features"),
    ),
    columns=(*_DIGITS, *_OBJECTS),
    published=_published(
        (*_DIGITS, *_OBJECTS),
        """
        fence-gan     .754 .307 .628 .566 .390 .490 .538 .313 .645 .408
                      .572 .582 .505 .544 .534 .535 .528 .537 .664 .338
        alad          .962 .915 .794 .821 .702 .790 .843 .865 .771 .821
                      .679 .397 .685 .652 .696 .550 .704 .463 .787 .391
        anogan        .902 .869 .623 .785 .827 .362 .758 .789 .672 .720
                      .602 .439 .637 .594 .755 .604 .730 .498 .675 .445
        ganomaly      .297 .877 .393 .486 .618 .540 .455 .633 .426 .584
                      -    -    -    -    -    -    -    -    -    -
        skip-ganomaly -    -    -    -    -    -    -    -    -    -
                      .655 .406 .663 .598 .739 .617 .638 .519 .746 .387
        deep-svdd     .971 .995 .809 .884 .920 .869 .978 .940 .900 .946
                      .682 .477 .679 .573 .752 .628 .710 .511 .733 .567
        ama           .986 .998 .882 .891 .894 .938 .981 .983 .876 .948
                      .752 .634 .696 .603 .733 .650 .658 .582 .754 .632
        """,
    ),
    notes=(
        _ONE_SEED,
        _NO_NEGATIVES,
        (
            "fence-gan",
            "Fence GAN's printed average on CIFAR-10 (.567) is not the mean of its entries (.534).",
        ),
        (
            "skip-ganomaly",
            "The row printed as Skip-GANomaly on MNIST cites GANomaly and stands there.",
        ),
        *(
            (
                row,
                f"{title}'s own paper makes one class anomalous; here one class is normal, so that "
                "its own figures do not compare.",
            )
            for row, title in (
                ("fence-gan", "Fence GAN"),
                ("ganomaly", "GANomaly"),
                ("skip-ganomaly", "Skip-GANomaly"),
            )
        ),
    ),
    groups={
        "MNIST": tuple(column.name for column in _DIGITS),
        "CIFAR-10": tuple(column.name for column in _OBJECTS),
    },
)

# --- Table 3 --------------------------------------------------------------------------------------

_BOTH = tuple(
    column
    for column in _PAIRS
    if column.name in ("fashion-mnist-mnist", "cifar10-svhn", "svhn-cifar10")
)

TABLE_3 = Table(
    name="table3",
    title="Table 3: atypical selection against Sipple's cube",
    rows=tuple(
        Row(
            name=name,
            title=title,
            method="ama",
            fixed={"negative_share": 0.1, "geometry": geometry, "k": k},
            score="A",
            beside=name.replace("cube", "ray") if geometry == "cube" else "",
        )
        for name, title, geometry, k in (
            ("cube-no-simplex", "cube, without interpolation", "cube", 1),
            ("ray-no-simplex", "atypical selection, without interpolation", "ray", 1),
            ("cube", "cube, with interpolation", "cube", 3),
            ("ray", "atypical selection, with interpolation", "ray", 3),
        )
    ),
    columns=_BOTH,
    published=_published(
        _BOTH,
        """
        cube-no-simplex .778 .752 .723
        ray-no-simplex  .960 .820 .991
        cube            .824 .819 .896
        ray             .987 .958 .993
        """,
    ),
    notes=(_ONE_SEED,),
)

TABLES = {table.name: table for table in (TABLE_1, TABLE_2, TABLE_3)}
