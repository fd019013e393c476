"""A detector as a scikit-learn estimator, for pipelines, grid searches and notebooks.

    from amatune import AnomalyDetector

    detector = AnomalyDetector(epochs=30, config={"width": 0.25}).fit(normal_images)
    detector.predict(images)            # +1 normal, -1 anomaly
    detector.score_samples(images)      # scikit-learn's direction: higher = more normal

Images are uint8: (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3; where both readings fit, C
comes last. They are used in the size they have. Rows (N, features) are refused: a detector looks
for what lies next to each other, and rows do not say what does.

`cross_val_predict(detector, images, method="decision_function")` gives the scores of images that
the detector did not learn from; scikit-learn takes no `score_samples` there, and the two differ by
the `offset_` of each fold alone.

Neither Ray nor Optuna is imported.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin  # type: ignore[import-untyped]
from sklearn.utils import check_random_state  # type: ignore[import-untyped]
from sklearn.utils.validation import check_is_fitted  # type: ignore[import-untyped]

from amatune.config import ImageShape
from amatune.detector import Detector
from amatune.errors import RequestError
from amatune.registry import find_method
from amatune.stored import StoredDetector

_SEEDS = 2**31 - 1


class AnomalyDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """An unsupervised image anomaly detector with scikit-learn's interface.

    Parameters
    ----------
    method : the detector; `amatune methods` lists them.
    epochs : passes over the training images; None: the method's own default.
    config : settings of the method by name, such as {"width": 0.25}; the rest keep their defaults.
    contamination : the share of the training images, in (0, 0.5], that `predict` calls anomalies:
        it decides `offset_`. Training images score lower than other normal ones, of which somewhat
        more will be flagged.
    random_state : seed of the training (a whole number of at least 0), a NumPy `RandomState`, or
        None for another training each time. It is 0 and not None by default, unlike elsewhere in
        scikit-learn: how good a detector is depends on its seed, so a result without one could not
        be repeated. Try several before you trust a figure.
    device : "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".

    Attributes
    ----------
    detector_ : the trained `Detector`.
    offset_ : `decision_function` is `score_samples` less this.
    image_shape_ : (C, H, W) of the images it was trained on.
    n_features_in_ : values per image, C x H x W.

    Every impossible parameter and unusable `X` raises `ValueError`; a training that comes to
    nothing, as on copies of one image, raises `amatune.errors.DivergedError`.
    """

    detector_: Detector
    offset_: float
    image_shape_: ImageShape
    n_features_in_: int

    def __init__(
        self,
        method: str = "ama",
        *,
        epochs: int | None = None,
        config: Mapping[str, Any] | None = None,
        contamination: float = 0.05,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.epochs = epochs
        self.config = config
        self.contamination = contamination
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # so that scikit-learn's tools hand it no rows
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Train on normal images `X`, at least 2; `y` is ignored."""
        share: Any = self.contamination  # whatever it was given
        if not isinstance(share, float | int | np.number) or not 0 < share <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {share!r}")
        images = _as_images(X)
        if len(images) < 2:
            raise ValueError(f"at least 2 images are needed, got {len(images)}")
        shape: ImageShape = (images.shape[1], images.shape[2], images.shape[3])
        try:
            cls = find_method(str(self.method)).detector
            settings = self._settings()
            config = cls.Config.from_dict(settings)
            detector = cls(config, shape, self._device(), self._seed())
            resident = torch.from_numpy(images).to(detector.device)
            for _ in range(detector.config.epochs):
                detector.train_epoch(resident)
            detector.calibrate(resident)
        except RequestError as error:
            raise ValueError(str(error)) from error
        offset = float(np.percentile(_normality(detector, images), 100 * float(share)))
        # All at once, and last: a fit that fails leaves what was fitted before.
        self.detector_, self.offset_ = detector, offset
        self.image_shape_, self.n_features_in_ = shape, math.prod(shape)
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Minus the detector's primary score, (N,): higher = more normal, unlike elsewhere."""
        check_is_fitted(self)
        return _normality(self.detector_, self._to_images(X))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """`score_samples(X) - offset_`, (N,): negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """+1 for normal images, -1 for anomalies, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _settings(self) -> dict[str, Any]:
        given: Any = {} if self.config is None else self.config  # whatever it was given
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise ValueError(f"config must be settings by name, got {given!r:.80}")
        own = {} if self.epochs is None else {"epochs": self.epochs}
        # NumPy's values are those of a grid over np.arange and the like.
        return {name: _plain(value) for name, value in {**given, **own}.items()}

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            if self.random_state < 0:
                raise ValueError(f"random_state must be at least 0, got {self.random_state}")
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(_SEEDS))

    def _device(self) -> torch.device:
        has_gpu = torch.cuda.is_available()
        if self.device == "auto":
            return torch.device("cuda" if has_gpu else "cpu")
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"unknown device {self.device!r}: write auto, cpu or cuda") from error
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"device {self.device!r} is not made use of: write auto, cpu or cuda")
        if device.type == "cuda" and not has_gpu:
            raise ValueError(f"device {self.device!r}: there is no GPU here; write auto or cpu")
        return device

    # --- what images are ------------------------------------------------------------------------

    def _to_images(self, X: ArrayLike) -> NDArray[np.uint8]:
        """`X` as uint8 (N, C, H, W), of the shape that was trained on."""
        images = _as_images(X)
        if not len(images):
            raise ValueError("at least 1 image is needed, got 0")
        found: ImageShape = (images.shape[1], images.shape[2], images.shape[3])
        if found != self.image_shape_:
            raise ValueError(
                f"{type(self).__name__} was fitted on images of (channels, height, width) "
                f"{self.image_shape_}, got {found}"
            )
        return images

    # --- pickling -------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # As stored: a detector's networks may be of classes made at run time, which cannot be
        # pickled, and on a device that is not there where they are read.
        state = dict(super().__getstate__())
        detector = state.pop("detector_", None)
        if detector is not None:
            state["_stored"] = StoredDetector.of(detector)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "_detector" in state:
            raise RequestError(
                f"this {type(self).__name__} was pickled by amatune 0.1, which kept a detector in "
                "another form: fit it again, or read it with that version"
            )
        stored: StoredDetector | None = state.pop("_stored", None)
        super().__setstate__(state)
        if stored is not None:
            try:
                device = self._device()
            except ValueError:  # fitted on a GPU that this machine lacks
                device = torch.device("cpu")
            self.detector_ = stored.build(device)


def _plain(value: Any) -> Any:
    """A setting as Python's own value."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _normality(detector: Detector, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = -detector.score(torch.from_numpy(images)).double().numpy()
    return scores


_LAYOUTS = "images must be uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3"


def _as_images(X: ArrayLike) -> NDArray[np.uint8]:
    """`X` as (N, C, H, W). Raises `ValueError` that says what images must look like."""
    images = np.asarray(X)
    if images.ndim == 2:
        raise ValueError(
            f"{_LAYOUTS}, got rows {images.shape}; flattened images become ones again by "
            "X.reshape(-1, height, width)"
        )
    if images.ndim not in (3, 4):
        raise ValueError(f"{_LAYOUTS}, got {images.shape}")
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.shape[1] not in (1, 3):
        raise ValueError(f"{_LAYOUTS}, got {images.shape}")
    # Writable, since torch has no other tensors: a memory map, say, is copied.
    return np.require(images, requirements=["C", "W"])
