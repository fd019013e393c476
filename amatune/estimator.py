"""A detector as a scikit-learn estimator, for pipelines, grid searches and notebooks.

    from amatune import AnomalyDetector

    detector = AnomalyDetector(epochs=30, config={"width": 0.25}).fit(normal_images)
    detector.predict(images)            # +1 normal, -1 anomaly
    detector.score_samples(images)      # scikit-learn's direction: higher = more normal

Images are uint8: (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3; where both readings fit, C
comes last. They are used in the size they have.

Rows (N, features) of numbers are taken too, as scikit-learn's tools pass them on: grey images
flattened row by row. They become images as follows.

- Values: uint8 is used as it is. Anything else is scaled as a whole, from the smallest and largest
  value of the training rows to 0 and 255, cut off beyond, and rounded: 256 levels, one scale for
  all features.
- Shape: the smallest square that holds the features, what is left of it filled with 0; then every
  pixel is repeated until a side has 8 pixels, the least a detector works on. 784 features are
  28 x 28 pixels; 10 features are 4 x 4 with six pixels of filling, enlarged to 8 x 8.

A detector looks for what lies next to each other in an image. For rows that are no images, other
estimators are the better choice.

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
from sklearn.utils.validation import check_is_fitted, validate_data  # type: ignore[import-untyped]

from amatune.config import ImageShape
from amatune.detector import Detector
from amatune.errors import RequestError
from amatune.registry import detector_class

_LEAST_SIDE = 8  # pixels
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
        None for another training each time.
    device : "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".

    Attributes
    ----------
    detector_ : the trained `Detector`.
    offset_ : `decision_function` is `score_samples` less this.
    image_shape_ : (C, H, W) of the images it was trained on.
    n_features_in_ : values per image, C x H x W, or features of a row.
    feature_names_in_ : names of the columns, where `X` was a data frame.
    range_ : smallest and largest value of the training rows, for rows that are not uint8; else
        None.

    Every impossible parameter and unusable `X` raises `ValueError`; a training that comes to
    nothing, as on copies of one image, raises `amatune.errors.DivergedError`.
    """

    detector_: Detector
    offset_: float
    image_shape_: ImageShape
    n_features_in_: int
    range_: tuple[float, float] | None

    def __init__(
        self,
        method: str = "ama",
        *,
        epochs: int | None = None,
        config: Mapping[str, Any] | None = None,
        contamination: float = 0.05,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.method = method
        self.epochs = epochs
        self.config = config
        self.contamination = contamination
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: ARG002
        """Train on normal images `X`, at least 2; `y` is ignored."""
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination must be in (0, 0.5], got {self.contamination}")
        images = self._to_images(X, training=True)
        try:
            cls = detector_class(self.method)
            settings = dict(self.config or {})
            if self.epochs is not None:
                settings["epochs"] = self.epochs
            detector = cls(
                cls.Config.from_dict(settings), self.image_shape_, self._device(), self._seed()
            )
            resident = torch.from_numpy(images).to(detector.device)
            for _ in range(detector.config.epochs):
                detector.train_epoch(resident)
            detector.calibrate(resident)
        except RequestError as error:
            raise ValueError(str(error)) from error
        self.detector_ = detector
        self.offset_ = float(np.percentile(self._score(images), 100 * self.contamination))
        return self

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Minus the detector's primary score, (N,): higher = more normal, unlike elsewhere."""
        check_is_fitted(self)
        return self._score(self._to_images(X, training=False))

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """`score_samples(X) - offset_`, (N,): negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """+1 for normal images, -1 for anomalies, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _score(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = (
            -self.detector_.score(torch.from_numpy(images)).double().numpy()
        )
        return scores

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
        except RuntimeError as error:
            raise ValueError(f"unknown device {self.device!r}: write auto, cpu or cuda") from error
        if device.type == "cuda" and not has_gpu:
            raise ValueError(f"device {self.device!r}: there is no GPU here; write auto or cpu")
        return device

    # --- what images are ------------------------------------------------------------------------

    def _to_images(self, X: ArrayLike, *, training: bool) -> NDArray[np.uint8]:
        """`X` as uint8 (N, C, H, W); while training, what it decides is kept."""
        least = 2 if training else 1
        dimensions = X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim
        if dimensions in (3, 4):
            return self._from_images(X, least, training)
        rows = validate_data(
            self, X, reset=training, dtype="numeric", ensure_min_samples=least, estimator=self
        )
        return self._from_rows(rows, training)

    def _from_images(
        self,
        X: ArrayLike,
        least: int,
        training: bool,
    ) -> NDArray[np.uint8]:
        images = np.asarray(X)
        if images.dtype != np.uint8:
            raise ValueError(f"images must be uint8, 0 to 255, got {images.dtype}")
        if len(images) < least:
            raise ValueError(f"at least {least} images are needed, got {len(images)}")
        shape = images.shape
        if images.ndim == 3:
            images = images[:, None]
        elif shape[3] in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        elif shape[1] not in (1, 3):
            raise ValueError(
                f"images must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, got {shape}"
            )
        found: ImageShape = (images.shape[1], images.shape[2], images.shape[3])
        if training:
            self.image_shape_ = found
            self.n_features_in_ = math.prod(found)
            self.range_ = None
            self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        elif found != self.image_shape_:
            raise ValueError(
                f"{type(self).__name__} was fitted on images of (channels, height, width) "
                f"{self.image_shape_}, got {found}"
            )
        return np.ascontiguousarray(images)

    def _from_rows(self, rows: NDArray[Any], training: bool) -> NDArray[np.uint8]:
        side = math.isqrt(rows.shape[1] - 1) + 1  # of the smallest square that holds a row
        factor = math.ceil(_LEAST_SIDE / side)
        if training:
            self.image_shape_ = (1, side * factor, side * factor)
            is_bytes = rows.dtype == np.uint8
            self.range_ = None if is_bytes else (float(rows.min()), float(rows.max()))
        if self.range_ is not None:
            low, high = self.range_
            # Halves, since the distance between two floats may itself be infinite.
            span = max(high / 2 - low / 2, np.finfo(np.float64).tiny)
            share = (rows.astype(np.float64) / 2 - low / 2) / span
            rows = np.round(255 * share.clip(0, 1)).astype(np.uint8)
        elif rows.dtype != np.uint8:
            raise ValueError(
                f"{type(self).__name__} was fitted on uint8 values, 0 to 255, got {rows.dtype}"
            )
        square = np.zeros((len(rows), side * side), np.uint8)
        square[:, : rows.shape[1]] = rows
        images = square.reshape(-1, 1, side, side)
        return images.repeat(factor, axis=2).repeat(factor, axis=3)

    # --- pickling -------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # Arrays for the detector: its networks may be of classes made at run time, which cannot be
        # pickled, and on a device that is not there where they are read.
        state = dict(super().__getstate__())
        detector = state.pop("detector_", None)
        if detector is not None:
            state["_detector"] = {
                "config": detector.config.to_dict(),
                "seed": detector.seed,
                "tensors": {n: t.cpu().numpy() for n, t in detector.inference_state().items()},
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        saved = state.pop("_detector", None)
        super().__setstate__(state)
        if saved is not None:
            cls = detector_class(self.method)
            config = cls.Config.from_dict(saved["config"])
            try:
                device = self._device()
            except ValueError:  # fitted on a GPU that this machine lacks
                device = torch.device("cpu")
            detector = cls(config, self.image_shape_, device, saved["seed"])
            tensors = {name: torch.from_numpy(a.copy()) for name, a in saved["tensors"].items()}
            detector.load_inference_state(tensors)
            self.detector_ = detector
