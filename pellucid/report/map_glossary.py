"""What the figures of heat maps and of a model's bias mean: one line each."""

from pellucid.report.figure import Figure

_OBJECT, _PARTS, _LABEL = "the object", "the annotated parts", "the parts that make the class"


def _mass(label: str, where: str) -> Figure:
    return Figure(
        label=label,
        better="higher",
        unit="of the relevance",
        definition=(
            f"Share of the relevance of a heat map that lies on {where}, mean over "
            "images (Arras, Osman and Samek, 2022). Relevance spread evenly has the share of the "
            "image that they cover."
        ),
    )


def _rank(label: str, where: str) -> Figure:
    return Figure(
        label=label,
        better="higher",
        unit="of the pixels",
        definition=(
            f"Of as many most relevant pixels as {where} cover, the share that lies on "
            "them, mean over images (Arras, Osman and Samek, 2022)."
        ),
    )


def _faithfulness(label: str, change: str) -> Figure:
    return Figure(
        label=label,
        better="higher",
        definition=(
            f"How far the class probabilities move when the attention {change} and all else stays: "
            "their total variation distance, from 0 to 1, mean over images. At 0 the prediction "
            "does not need the attention, which then explains nothing."
        ),
    )


MAP_FIGURES: dict[str, Figure] = {
    "attention_faithfulness": _faithfulness(
        "Attention faithfulness", "is put in random order (Jain and Wallace, 2019)"
    ),
    "attention_faithfulness_even": _faithfulness(
        "Attention faithfulness, even", "is the same everywhere (Wiegreffe and Pinter, 2019)"
    ),
    "attention_faithfulness_strongest": _faithfulness(
        "Attention faithfulness, strongest", "loses its greatest weight (Serrano and Smith, 2019)"
    ),
    "relevance_mass": _mass("Relevance mass", _OBJECT),
    "relevance_mass_parts": _mass("Relevance mass, parts", _PARTS),
    "relevance_mass_label_parts": _mass("Relevance mass, label parts", _LABEL),
    "relevance_rank": _rank("Relevance rank", _OBJECT),
    "relevance_rank_parts": _rank("Relevance rank, parts", _PARTS),
    "relevance_rank_label_parts": _rank("Relevance rank, label parts", _LABEL),
    "pointing_game": Figure(
        label="Pointing game",
        better="higher",
        unit="of images",
        percent=True,
        definition=(
            "Share of images whose most relevant pixel lies on the object (Zhang et al., 2018)."
        ),
    ),
    "iou_best": Figure(
        label="Best IoU",
        better="higher",
        definition=(
            "Overlap (IoU) of the object with the heat map cut off at the threshold that suits "
            "each image best, mean over images."
        ),
    ),
    "attention_correlation": Figure(
        label="Correlation with people",
        better="higher",
        definition=(
            "Rank correlation of the heat map with where people looked, on 14 x 14 cells, mean "
            "over images (Das et al., 2017); 0 is chance."
        ),
    ),
    "gini": Figure(
        label="Gini index",
        definition=(
            "How few cells hold a heat map's relevance, mean over images: 0 where all have as "
            "much, 1 where one has all (Hurley and Rickard, 2009)."
        ),
    ),
    "entropy": Figure(
        label="Entropy of the map",
        unit="of the greatest entropy",
        definition=(
            "How widely a heat map's relevance is spread, mean over images: 0 where one cell has "
            "all, 1 where all have as much."
        ),
    ),
    "deletion_auc": Figure(
        label="Deletion",
        better="lower",
        unit="of the probability",
        definition=(
            "Mean probability of the predicted class while the most relevant pixels are deleted "
            "first (Petsiuk, Das and Saenko, 2018), on test images spread over the split."
        ),
    ),
    "insertion_auc": Figure(
        label="Insertion",
        better="higher",
        unit="of the probability",
        definition=(
            "Mean probability of the predicted class while the most relevant pixels are put into "
            "a blurred image first (Petsiuk, Das and Saenko, 2018), on test images spread over "
            "the split."
        ),
    ),
    "swap_background": Figure(
        label="Swapping the background",
        better="lower",
        unit="of images",
        percent=True,
        definition=(
            "Share of test images whose predicted class changes before another background."
        ),
    ),
    "background_relevance": Figure(
        label="Relevance of the background",
        better="lower",
        unit="of the relevance",
        percent=True,
        definition=("Share of the relevance of a heat map outside the object, mean over images."),
    ),
}

_REMOVE = "remove_"


def removed_part(name: str) -> Figure | None:
    """The figure ``remove_PART``: what removing one part does; None of any other name."""
    if not name.startswith(_REMOVE):
        return None
    part = name.removeprefix(_REMOVE).replace("_", " ")
    return Figure(
        label=f"Removing the {part}",
        unit="of images",
        percent=True,
        definition=(
            f"Share of the test images that show the {part} whose predicted class changes when it "
            "is removed."
        ),
    )
