"""What a model says of each image of the test split, as a table."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from pellucid.errors import UserError
from pellucid.models.explanation import Explanation


def write_predictions(
    path: Path, explanations: Iterable[Explanation], class_names: Sequence[str]
) -> str:
    """Write the scores of all images, or, where a model has no classes, their codes.

    Args:
        path: The CSV file.
        explanations: Of the batches of the split, in order.
        class_names: Names of the classes.

    Returns:
        What the file holds, for the screen.

    Raises:
        UserError: If the model gives neither scores nor codes.
    """
    found = list(explanations)
    scores = torch.cat([explanation.scores for explanation in found]).float()
    if scores.shape[1]:
        return _write_scores(path, scores, class_names)
    codes = [explanation.codes for explanation in found if explanation.codes is not None]
    if len(codes) < len(found):
        raise UserError(
            "predict", "the model has neither classes nor codes of images: there is nothing to say"
        )
    table = torch.cat(codes).float()
    _write(path, [f"code {i}" for i in range(table.shape[1])], table.tolist())
    return f"codes of {len(table)} images"


def _write_scores(path: Path, scores: torch.Tensor, names: Sequence[str]) -> str:
    # One logit stands for one category against its negatives.
    winners = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
    columns = names if scores.shape[1] == len(names) else names[-scores.shape[1] :]
    rows = [
        [names[int(winner)], *row]
        for row, winner in zip(scores.tolist(), winners.tolist(), strict=True)
    ]
    _write(path, ["predicted", *(f"score {name}" for name in columns)], rows)
    return f"scores of {len(scores)} images"


def _write(path: Path, header: list[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *header])
        writer.writerows([index, *row] for index, row in enumerate(rows))
