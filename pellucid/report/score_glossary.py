"""What the disentanglement scores in a report mean."""

from pellucid.report.figure import Figure

SCORE_FIGURES: dict[str, Figure] = {
    "mig": Figure(
        label="Mutual information gap",
        better="higher",
        definition=(
            "How much more the best code tells of a factor than the second best does, as a share "
            "of the factor's entropy, mean over factors (Chen et al., 2018)."
        ),
    ),
    "dci_disentanglement": Figure(
        label="Disentanglement",
        better="higher",
        definition=(
            "Whether each code matters for one factor alone to a boosted classifier: 1 less the "
            "entropy of its importances (Eastwood and Williams, 2018)."
        ),
    ),
    "dci_completeness": Figure(
        label="Completeness",
        better="higher",
        definition=(
            "Whether each factor is told by one code alone: 1 less the entropy of the codes' "
            "importances (Eastwood and Williams, 2018)."
        ),
    ),
    "dci_informativeness": Figure(
        label="Informativeness",
        better="higher",
        unit="of images",
        definition=(
            "Share of test images whose factors boosted trees read from the codes, mean over "
            "factors (Eastwood and Williams, 2018)."
        ),
    ),
    "factor_vae_score": Figure(
        label="FactorVAE metric",
        better="higher",
        unit="of batches",
        definition=(
            "How often the code that varies least names the factor that all images of a batch "
            "share; dead codes do not vote (Kim and Mnih, 2018)."
        ),
    ),
    "beta_vae_score": Figure(
        label="beta-VAE metric",
        better="higher",
        unit="of points",
        definition=(
            "How often a linear classifier tells from differences of codes which factor pairs of "
            "images share (Higgins et al., 2017)."
        ),
    ),
    "sap": Figure(
        label="SAP",
        better="higher",
        definition=(
            "Gap between the two codes that predict a factor best alone, mean over factors (Kumar "
            "et al., 2018)."
        ),
    ),
    "modularity": Figure(
        label="Modularity",
        better="higher",
        definition=(
            "Whether each code has information on one factor alone; several codes may be on the "
            "same (Ridgeway and Mozer, 2018)."
        ),
    ),
    "explicitness": Figure(
        label="Explicitness",
        better="higher",
        definition=(
            "Area under the ROC curve of a linear classifier of each factor's values; 0.5 is "
            "chance (Ridgeway and Mozer, 2018)."
        ),
    ),
    "irs": Figure(
        label="Interventional robustness",
        better="higher",
        definition=(
            "How little each code moves while other factors than its own vary (Suter et al., 2019)."
        ),
    ),
    "active_units": Figure(
        label="Active units",
        unit="codes",
        whole=True,
        definition=(
            "Number of codes whose variance over images is above 0.01. None: the encoder ignores "
            "its input (Burda et al., 2016)."
        ),
    ),
    "total_correlation": Figure(
        label="Total correlation",
        better="lower",
        unit="nats",
        definition=(
            "How much the codes depend on each other, taken as Gaussian; 0 where they do not."
        ),
    ),
    "pairwise_mutual_information": Figure(
        label="Mutual information of codes",
        better="lower",
        unit="nats",
        definition=("Mutual information of two codes in 20 bins, mean over pairs."),
    ),
    "elbo": Figure(
        label="ELBO",
        better="higher",
        unit="nats",
        definition=(
            "Evidence lower bound: a bound from below of the log-likelihood of an image, minus its "
            "reconstruction and KL terms. Comparable between models of one likelihood."
        ),
    ),
    "reconstruction": Figure(
        label="Reconstruction",
        better="lower",
        unit="nats",
        definition=(
            "Minus the log-likelihood of an image under the decoder, summed over its pixels, for "
            "one code sampled from the posterior."
        ),
    ),
    "reconstruction_error": Figure(
        label="Reconstruction error",
        better="lower",
        definition=(
            "Squared difference of an image, in [0, 1], from what the model draws from the code "
            "that it infers from it, mean over pixels and images."
        ),
    ),
    "kl": Figure(
        label="KL divergence",
        unit="nats",
        definition=(
            "From the prior to the posterior of an image, summed over latents: how much the codes "
            "tell of the image. Neither direction is better by itself."
        ),
    ),
}
