"""What the figures in a report mean: one line each, with unit and direction."""

from pellucid.report.explanation_glossary import EXPLANATION_FIGURES
from pellucid.report.figure import Figure
from pellucid.report.map_glossary import MAP_FIGURES, removed_part
from pellucid.report.score_glossary import SCORE_FIGURES

__all__ = ["FIGURES", "UNIT_FIGURES", "Figure", "figure", "unit_figure"]


_NATS = "nats per image"

FIGURES: dict[str, Figure] = {
    "accuracy": Figure(
        label="Accuracy",
        better="higher",
        unit="of images",
        percent=True,
        definition="Share of images whose predicted class is the labelled one.",
    ),
    "location_instability": Figure(
        label="Location instability",
        better="lower",
        unit="of the image diagonal",
        definition=(
            "How much the distance between a unit's strongest position and a landmark of the "
            "object varies over the images on which the unit responds most: standard deviation, "
            "mean over landmarks and units. A unit that always fires at the same part has a "
            "small one (Zhang, Wu and Zhu, 2018)."
        ),
    ),
    "part_interpretability": Figure(
        label="Part interpretability",
        better="higher",
        unit="of images",
        over_parts="max",
        definition=(
            "Share of images on which a unit's strongest region (its top 0.5 % of activations) "
            "overlaps the mask of one part with an IoU above 0.2: the best part of each unit, "
            "mean over units (Zhang, Wu and Zhu, 2018)."
        ),
    ),
    "part_purity": Figure(
        label="Part purity",
        better="higher",
        unit="of patches",
        over_parts="max",
        definition=(
            "Share of a unit's ten strongest image patches that contain one and the same landmark, "
            "of those in whose image it is visible: the best landmark of each unit, mean over "
            "units (Nauta et al., 2023)."
        ),
    ),
    "part_consistency": Figure(
        label="Part consistency",
        better="higher",
        unit="of units",
        over_parts="max",
        definition=(
            "Share of the units around whose strongest position the same landmark is found in at "
            "least 80 % of the images of the unit's category (Huang et al., 2023)."
        ),
    ),
    "part_stability": Figure(
        label="Part stability",
        better="higher",
        unit="of images",
        definition=(
            "Share of images in which noise that is hardly to be seen leaves a unit on the same "
            "landmarks, mean over units; of about 250 images or 25 a category, evenly spread "
            "(Huang et al., 2023). A unit that is on no landmark is stable as well."
        ),
    ),
    "network_dissection": Figure(
        label="Unique detectors",
        better="higher",
        unit="parts",
        whole=True,
        over_parts="max",
        definition=(
            "Network dissection: number of parts that have a detector, a unit whose top 0.5 % of "
            "activations and the part's masks have an IoU above 0.04 over the whole data set (Bau "
            "et al., 2017). Where each category has parts of its own, they count one by one."
        ),
    ),
    "detectors": Figure(
        label="Detectors",
        better="higher",
        unit="units",
        whole=True,
        definition="Network dissection: number of units that detect a part (Bau et al., 2017).",
    ),
    "category_purity": Figure(
        label="Category purity",
        better="higher",
        unit="of images",
        definition=(
            "Share of a unit's ten strongest images that are of one category, mean over units."
        ),
    ),
    "category_balance": Figure(
        label="Category balance",
        unit="of the greatest entropy",
        definition=(
            "How evenly units are spread over categories, a unit's category being the one whose "
            "images activate it most: entropy of the counts, 1 where all categories have as many "
            "units, 0 where all units are of one."
        ),
    ),
    "decision_sparsity": Figure(
        label="Decision sparsity",
        better="lower",
        unit="units",
        definition=(
            "How many units a person must look at for 90 % of what all units add to the score of "
            "the predicted class, in size, whether they speak for or against it: mean over images."
        ),
    ),
    **MAP_FIGURES,
    **EXPLANATION_FIGURES,
    **SCORE_FIGURES,
    "loss": Figure(
        label="Loss",
        better="lower",
        comparable=False,
        definition="What training minimises: the sum of the terms below, each with its weight.",
    ),
    "classification_loss": Figure(
        label="Classification loss",
        better="lower",
        unit=_NATS,
        definition="Cross-entropy between the predicted and the labelled class.",
    ),
    "filter_loss": Figure(
        label="Filter loss",
        better="lower",
        comparable=False,
        definition=(
            "How far the filters of the interpretable layer are from firing at one place of one "
            "category; less is better."
        ),
    ),
    "top_filter_loss": Figure(
        label="Top filter loss",
        better="lower",
        comparable=False,
        definition="The filter loss of the backbone's top layer, below the interpretable one.",
    ),
    "code_error_hungarian": Figure(
        label="Code error (Hungarian)",
        better="lower",
        unit="of images",
        percent=True,
        definition=(
            "Share of images whose categorical code is not that of their label, where each code "
            "stands for one label: the best assignment of the two."
        ),
    ),
    "code_error_majority": Figure(
        label="Code error (majority)",
        better="lower",
        unit="of images",
        percent=True,
        definition=(
            "Share of images whose label is not the most frequent one of their categorical code; "
            "several codes may stand for one label."
        ),
    ),
    "classifier_fid": Figure(
        label="Classifier FID",
        better="lower",
        definition=(
            "Fréchet distance of generated and real images in the features of a classifier trained "
            "here; compares with nothing but figures of the same classifier and number of images."
        ),
    ),
    "judged_accuracy": Figure(
        label="Judged accuracy",
        better="higher",
        unit="of drawn images",
        percent=True,
        definition=(
            "Share of generated images to which a classifier of real ones gives the label that "
            "they were drawn for."
        ),
    ),
    "dead_units": Figure(
        label="Dead units",
        better="lower",
        unit="units",
        whole=True,
        definition="Number of units that fire on no image; less is better.",
    ),
}

UNIT_FIGURES: dict[str, Figure] = {
    "location_instability": FIGURES["location_instability"],
    "part_interpretability": FIGURES["part_interpretability"],
    "part_purity": FIGURES["part_purity"],
    "part_consistency": Figure(
        label="Part consistency",
        better="higher",
        unit="of images",
        over_parts="max",
        definition=(
            "Share of the images of the unit's category in which the landmark is found around the "
            "unit's strongest position: the best landmark. From 0.8 on the unit is consistent."
        ),
    ),
    "part_stability": FIGURES["part_stability"],
    "network_dissection": Figure(
        label="Dissection IoU",
        better="higher",
        over_parts="max",
        definition=(
            "IoU of the places of the unit's top 0.5 % of activations with the masks of a part, "
            "over the whole data set: the best part. Above 0.04 the unit is its detector."
        ),
    ),
    "category_purity": FIGURES["category_purity"],
    "decision_sparsity": Figure(
        label="Carries the score",
        unit="of images",
        percent=True,
        definition=(
            "Share of images in which the unit is among the fewest that make up 90 % of what all "
            "units add to the score."
        ),
    ),
    "position_spread": Figure(
        label="Position spread",
        better="lower",
        unit="of the image diagonal",
        definition=(
            "How far the unit's strongest position strays from its mean over the images on which "
            "it responds most: small for a unit that keeps to one place of the image."
        ),
    ),
    "share_fired": Figure(
        label="Fires on",
        unit="of images",
        percent=True,
        definition=(
            "Share of images on which the unit's peak is above half of its mean peak on the "
            "images shown."
        ),
    ),
    "strongest_peak": Figure(
        label="Strongest peak", definition="Largest activation of the unit on any image."
    ),
    "selectivity": Figure(
        label="Selectivity",
        definition=(
            "Mean activation on the unit's category over the sum of its mean activations on all "
            "categories: 1 when the unit fires on one category only."
        ),
    ),
}


def unit_figure(name: str) -> Figure:
    """The figure of that name of a single unit; that of all units where they are alike."""
    return UNIT_FIGURES.get(name) or figure(name)


def figure(name: str) -> Figure:
    """The figure of that name, with or without its stage; a plain one if it is not known."""
    name = name.rsplit("/", 1)[-1]
    known = FIGURES.get(name) or UNIT_FIGURES.get(name) or removed_part(name)
    if known is not None:
        return known
    label = name.replace("_", " ").capitalize()
    return Figure(label=label, better="lower" if name.endswith("loss") else None, comparable=False)
