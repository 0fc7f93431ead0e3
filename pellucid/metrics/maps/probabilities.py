"""What metrics that look through a network make of its scores."""

from torch import Tensor


class NonFiniteScores(ValueError):  # noqa: N818 - what it is about, as the report names it
    """Scores that are NaN or infinite: nothing that is made of them means anything."""


def class_probabilities(scores: Tensor, count: int) -> Tensor:
    """Probabilities of classes.

    Args:
        scores: (N, K) logits of N images.
        count: N.

    Returns:
        (N, K) float32.

    Raises:
        ValueError: If the shape is another, or there is one class only.
    """
    if scores.ndim != 2 or len(scores) != count or scores.shape[1] < 2:
        raise ValueError(
            f"scores must make (N={count}, K) logits of two classes or more, got "
            f"{tuple(scores.shape)}: give a sigmoid's class 0 the score 0"
        )
    return scores.float().softmax(1)
