"""What the figures of explanations and of attacks mean: one line each."""

from pellucid.report.figure import Figure

EXPLANATION_FIGURES: dict[str, Figure] = {
    "infidelity": Figure(
        label="Infidelity",
        better="lower",
        definition=(
            "Squared difference between what the explanation says that removing a square of the "
            "image changes and how much the score does change, under the best scale of the "
            "explanation and as a share of the mean squared change, mean over images (Yeh et al., "
            "2019): 0 where it tells all, 1 where it tells nothing."
        ),
    ),
    "max_sensitivity": Figure(
        label="Max-sensitivity",
        better="lower",
        unit="of the map's norm",
        definition=(
            "Largest relative change of the explanation under noise that is hardly to be seen, "
            "mean over images (Yeh et al., 2019)."
        ),
    ),
    "sparseness": Figure(
        label="Sparseness",
        definition=(
            "Gini index of the map: 0 where all pixels count alike, 1 where one pixel has all, "
            "mean over images (Chalasani et al., 2020)."
        ),
    ),
    "completeness_error": Figure(
        label="Completeness error",
        better="lower",
        unit="of the change of the score",
        definition=(
            "How far the sum of an explanation is from the change of the score between the image "
            "and the baseline, relative to that change. Only methods that promise equality have "
            "one."
        ),
    ),
    "randomised_similarity": Figure(
        label="Similarity on a random network",
        better="lower",
        unit="rank correlation",
        definition=(
            "Spearman's rank correlation of the map with that of the same method on the network "
            "with all parameters drawn anew, mean over images (Adebayo et al., 2018). A method "
            "whose maps stay alike does not show what the network learned."
        ),
    ),
    "part_effects": Figure(
        label="True part effects",
        better="higher",
        unit="correlation",
        definition=(
            "Images are drawn again without one of their parts, and the fall of the score (logit) "
            "is the part's true effect. The figure is the rank correlation, over the parts of an "
            "image, of these effects with the relevance that the method gives each part: 1 where "
            "the method ranks the parts as they truly count, 0 where it says nothing."
        ),
    ),
    "agreement": Figure(
        label="Agreement between methods",
        unit="rank correlation",
        definition=(
            "Spearman's rank correlation of two methods' maps of the same image, over 14 x 14 "
            "cells, mean over images: 1 where both rank all cells alike, 0 where they have nothing "
            "in common. Agreement is no proof of being right."
        ),
    ),
    "seconds_per_image": Figure(
        label="Time",
        better="lower",
        unit="seconds an image",
        comparable=False,
        definition="Wall-clock time of the explanation, mean over images, on its machine.",
    ),
    "success_rate": Figure(
        label="Success rate",
        better="lower",
        unit="of images",
        percent=True,
        definition=(
            "Share of the images whose predicted class the attack changed, be it right or wrong "
            "before. A model is the more robust the lower it is."
        ),
    ),
    "l0": Figure(
        label="L0 norm",
        better="higher",
        unit="pixels changed",
        definition=(
            "How many pixels of the image the attack changed, in whichever channel, mean over its "
            "successes."
        ),
    ),
    "l2": Figure(
        label="L2 norm",
        better="higher",
        unit="of the image range",
        definition=(
            "Euclidean length of the change over all values, where black to white is 1, mean over "
            "successes. A model is the more robust the larger the change must be."
        ),
    ),
    "linf": Figure(
        label="L∞ norm",
        better="higher",
        unit="of the image range",
        definition="Largest change of any value of the image, mean over successes.",
    ),
    "attack_seconds": Figure(
        label="Time",
        unit="seconds",
        comparable=False,
        definition="Wall-clock time of the attack on all its images.",
    ),
    "confusion": Figure(
        label="Confusion",
        unit="of the images of a class",
        percent=True,
        definition=(
            "Of the images of each labelled class (row), the share that was taken for each class "
            "(column). What is right lies on the diagonal."
        ),
    ),
    "representative": Figure(
        label="Representative",
        definition=(
            "Of the ten images with the unit's largest peaks, those on which all units together "
            "respond most as they do on average over all images on which this unit fires strongly, "
            "above half of the mean of those ten; of up to 2,000 test images. They show what the "
            "unit fires at as a rule."
        ),
    ),
    "surprising": Figure(
        label="Surprising",
        definition=(
            "Images to which the unit responds strongly, above half of the mean of its ten largest "
            "peaks, though on average it does not so to the other images of their category; of up "
            "to 2,000 test images, those first that are furthest above that average. They show "
            "what else the unit fires at."
        ),
    ),
    "difference": Figure(
        label="Difference",
        definition=(
            "Mean of the second minus mean of the first, with its 95 % interval. Over seeds: "
            "Student's t interval of the paired differences where both have the same seeds, else "
            "Welch's. Over images: 2,000 bootstrap samples of the test images, the same for both. "
            "An interval that holds zero leaves open which of the two is better."
        ),
    ),
}
