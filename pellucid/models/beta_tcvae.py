"""beta-TCVAE: a heavier total correlation of the codes, and nothing else of the KL divergence.

Chen et al., "Isolating Sources of Disentanglement in Variational Autoencoders", NeurIPS 2018 (arXiv
1802.04942).

Where this differs from the paper: what of the KL divergence keeps the weight 1 is taken in closed
form, ``KL + (alpha - 1) MI + (beta - 1) TC + (gamma - 1) DW``, as in disentanglement_lib, in place
of ``alpha MI + beta TC + gamma DW`` from sampled codes: the same expectation, less noise.
"""

from typing import Any

from torch import Tensor

from pellucid.arguments import check_at_least
from pellucid.losses.reconstruction import Likelihood
from pellucid.losses.total_correlation import Estimator, KLDecomposition
from pellucid.models.layers.encoders import EncoderName
from pellucid.models.vae import VAE, Bound


class BetaTCVAE(VAE):
    """VAE with a weight on each of the three parts of the KL divergence (Chen et al., Eq. 4).

    ``total_correlation_estimate`` and ``mutual_information_estimate`` are those of the objective,
    in nats, from the sampled codes of one batch over all devices; the weighted estimator's are
    biased by an amount that depends on the size of the batch.

    Args:
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.
        alpha: Weight of the mutual information of images and codes, at least 0.
        beta: Weight of the total correlation, at least 0.
        gamma: Weight of the dimension-wise KL divergence, at least 0.
        estimator: Of ``q(z)``: ``minibatch_weighted`` or ``minibatch_stratified``.
        dataset_size: Images in the training set; None: as many as the trainer's data module has.
        num_latents: Dimensions of the code.
        encoder: See :class:`VAE`.
        decoder: See :class:`VAE`.
        likelihood: Of a pixel: ``bernoulli`` or ``gaussian``.
        decoder_std: Standard deviation of a Gaussian pixel.
        lr: Learning rate of Adam.
        traversal_range: Traversals show each latent from minus to plus this.
        traversal_steps: At so many values.
        judge: See :class:`VAE`.
        updates_per_batch: See :class:`VAE`.
        restart_step: See :class:`VAE`.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        estimator: Estimator = "minibatch_weighted",
        dataset_size: int | None = None,
        num_latents: int = 10,
        encoder: EncoderName = "locatello",
        decoder: EncoderName | None = None,
        likelihood: Likelihood = "bernoulli",
        decoder_std: float = 1.0,
        lr: float = 1e-4,
        traversal_range: float = 3.0,
        traversal_steps: int = 11,
        judge: str = "none",
        updates_per_batch: int = 1,
        restart_step: int = 0,
    ) -> None:
        check_at_least(0, alpha=alpha, beta=beta, gamma=gamma)
        if dataset_size is not None and dataset_size < 1:
            raise ValueError(
                f"dataset_size must be at least 1, got {dataset_size}; null takes it from the data"
            )
        super().__init__(
            image_size,
            channels,
            num_latents,
            encoder,
            decoder,
            likelihood,
            decoder_std,
            lr,
            traversal_range,
            traversal_steps,
            judge,
            updates_per_batch,
            restart_step,
        )
        self.save_hyperparameters()
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.dataset_size = dataset_size
        self.decomposition = KLDecomposition(estimator)

    def setup(self, stage: str) -> None:
        """Take over the size of the training set; see :meth:`VAE.setup`."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.dataset_size is None and data is not None:
            self.dataset_size = len(data.dataset("train"))

    def criterion(self, bound: Bound) -> dict[str, Tensor]:
        """See :meth:`VAE.criterion`.

        Raises:
            ValueError: The size of the training set is not known.
        """
        if self.dataset_size is None:
            raise ValueError(
                "dataset_size is None and there is no data module to take it from: give "
                "dataset_size, the number of training images"
            )
        parts = self.decomposition(bound.codes, *bound.posterior, self.dataset_size)
        return {
            "loss": bound.reconstruction
            + bound.kl
            + (self.alpha - 1) * parts.mutual_information
            + (self.beta - 1) * parts.total_correlation
            + (self.gamma - 1) * parts.dimension_wise_kl,
            "total_correlation_estimate": parts.total_correlation,
            "mutual_information_estimate": parts.mutual_information,
        }
