"""R-score and A-score: Somepalli et al., UAI 2021, Eq. 5 and 6. Higher = more anomalous."""

from torch import Tensor


def r_score(features_same: Tensor, features_rebuilt: Tensor) -> Tensor:
    """||f(x,x) - f(x,x')||_1 over critic features (N, F) -> (N,), Eq. 5.

    Anomalies may lie above *or below* the normal images.
    """
    return (features_same - features_rebuilt).abs().sum(dim=1)


def a_score(r: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """|R - mean| / std, (N,) -> (N,).

    Eq. 6 ranks by the Gaussian density of R under the training images' mean and variance. The
    density itself underflows into ties far from the mean; this is the same order without them.
    """
    return (r - mean).abs() / std
