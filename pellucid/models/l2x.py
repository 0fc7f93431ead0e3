"""L2X: a network that learns which few cells of an image tell what a classifier says of it.

Source: Chen, Song, Wainwright and Jordan, *Learning to Explain: An Information-Theoretic
Perspective on Model Interpretation*, ICML 2018 (arXiv 1802.07814), equation 6 and section 3.4.

Where this differs from the paper:

- Cells are those of a backbone's feature map, and both networks are backbones.
- The optimiser is Adam, not RMSprop.
- Without a classifier (``explained`` ``none``) the labels take the place of its answers: the cells
  are then those that tell the class, whoever looks.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from pellucid.batch import Batch
from pellucid.checkpoint import class_path
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.backbones import Backbone, Normalisation
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.explanation import Explanation
from pellucid.models.trained import find_class, read_model

CELLS = 10
TEMPERATURE = 0.1
"""Of the paper."""


class L2X(InterpretableModel):
    """An explainer that picks cells, and a network that says from them what the classifier says.

    The explainer gives a distribution over the cells of its feature map. In training, ``cells``
    draws from it, relaxed, make a mask (:func:`draw_cells`); the second network sees the image
    through it, and learns the classifier's answer to the whole image. Both are trained by its
    cross-entropy, a bound of the mutual information of the picked cells and the answer. Afterwards
    the ``cells`` likeliest ones are picked. What is not picked is 0: the mean of the data.

    Figures: ``post_hoc_accuracy``, the share of images of which the classifier itself says the same
    from the picked cells alone; ``fidelity``, the same of the second network; ``accuracy``, the
    share of images of which the second network says the label.

    Args:
        num_classes: Number of categories.
        explained: The classifier: a run directory, whose best checkpoint is meant, or a
            checkpoint; ``none``: the labels are explained. In a checkpoint of this model, what
            rebuilds the classifier: a mapping of ``class_path`` and ``init_args``.
        backbone: Name of a network, see :class:`pellucid.models.backbones.Backbone`, of both.
        stride: Pixels per position of the feature map; None: the backbone's default.
        pool: A cell is so many positions wide and high.
        cells: How many cells are picked.
        temperature: Of the relaxed draws; smaller: nearer to picking, and noisier gradients.
        lr: Adam's learning rate.

    Raises:
        ValueError: An argument is outside its range, or the classifier has other classes.
        pellucid.errors.UserError: The classifier cannot be read.
    """

    monitor = "val/classification_loss"
    explains_by_map = True

    def __init__(
        self,
        num_classes: int,
        explained: str | dict[str, Any] = "none",
        backbone: str = "small",
        stride: int | None = None,
        pool: int = 1,
        cells: int = CELLS,
        temperature: float = TEMPERATURE,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_classes", num_classes, 2),
            ("pool", pool, 1),
            ("cells", cells, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name, number, usual in (("temperature", temperature, 0.1), ("lr", lr, 1e-3)):
            if not number > 0:
                raise ValueError(f"{name} must be above 0, got {number}; the usual is {usual}")
        self.save_hyperparameters()
        self.num_classes, self.cells, self.pool = num_classes, cells, pool
        self.temperature, self.lr = temperature, lr
        self.explainer = Backbone(backbone, stride=stride)
        self.cell_scores = nn.Conv2d(self.explainer.channels, 1, 1)
        self.approximator = Backbone(backbone)
        self.classifier = nn.Linear(self.approximator.channels, num_classes)
        # Last, so that the base finds a backbone of this model first.
        self.explained_model = _find_explained(explained)
        if self.explained_model is None:
            self.requires = frozenset({"image", "label"})  # type: ignore[misc]
            return
        theirs = getattr(self.explained_model, "num_classes", None)
        if theirs != num_classes:
            raise ValueError(
                f"explained must be a classifier of {num_classes} classes, as the data have, got "
                f"{type(self.explained_model).__name__} of {theirs or 'none'}"
            )
        self.explained_model.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for the classifier that is explained."""
        super().train(mode)
        if self.explained_model is not None:
            self.explained_model.eval()
        return self

    @property
    def normalisation(self) -> Normalisation | None:
        """What images are normalised with: as the classifier wants it, where there is one."""
        found = super().normalisation
        if found is None and self.explained_model is not None:
            return self.explained_model.normalisation
        return found

    def cell_logits(self, image: Tensor) -> Tensor:
        """(B, h, w) how much each cell is wanted, the logarithm of its chance but for a constant.

        Raises:
            ValueError: There are fewer cells than are to be picked.
        """
        features = F.avg_pool2d(self.explainer(image), self.pool)
        scores: Tensor = self.cell_scores(features)
        logits = rearrange(scores, "b 1 h w -> b h w").float()
        if logits[0].numel() < self.cells:
            raise ValueError(
                f"cells must be at most {logits[0].numel()}, as images of {tuple(image.shape[2:])} "
                f"pixels have, got {self.cells}; give fewer, or a smaller pool"
            )
        return logits

    def answer(self, image: Tensor, mask: Tensor) -> Tensor:
        """(B, K) logits of the second network, of images of which a mask (B, h, w) lets through."""
        seen = self.approximator(masked(image, mask))
        return self.classifier(reduce(seen, "b c h w -> b c", "mean"))  # type: ignore[no-any-return]

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`InterpretableModel.step`."""
        image = batch["image"]
        logits = self.cell_logits(image)
        if stage == "train":
            mask = draw_cells(logits, self.cells, self.temperature)
        else:
            mask = pick_cells(logits, self.cells).sum(1)
        scores = self.answer(image, mask)
        whole: Tensor | None = None
        if self.explained_model is None:
            loss = F.cross_entropy(scores, batch["label"])
        else:
            with torch.no_grad():
                whole = self.explained_model.class_scores(image)
            loss = F.cross_entropy(scores, whole.softmax(1))
        outputs = {"loss": loss, "classification_loss": loss, "scores": scores}
        if stage != "train":
            outputs["heat"] = over_cells(logits)
            if whole is not None and self.explained_model is not None:
                outputs["explained_scores"] = whole
                outputs["scores_of_cells"] = self.explained_model.class_scores(masked(image, mask))
        return outputs

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """The picked cells, the most wanted first, and how likely each cell is.

        ``maps`` are 1 in their cell and 0 elsewhere; ``heat`` is the distribution over cells. The
        cells tell what the classifier says of all classes, so they are the same for every target.
        ``scores`` are the classifier's of the whole image; without one, the second network's.
        """
        image = batch["image"]
        logits = self.cell_logits(image)
        maps = pick_cells(logits, self.cells)
        if self.explained_model is None:
            scores = self.answer(image, maps.sum(1))
        else:
            scores = self.explained_model.class_scores(image)
        size = (image.shape[-2], image.shape[-1])
        return Explanation(
            scores=scores,
            target=scores.argmax(1) if target is None else target.long(),
            maps=maps,
            map_range=(0.0, 1.0),
            # Cells tile the image: it is through them that it is masked.
            positions=peak_positions(maps, size)[1],
            unit_names=tuple(f"cell {number + 1}" for number in range(self.cells)),
            heat=over_cells(logits),
        )

    def class_scores(self, image: Tensor) -> Tensor:
        """See :meth:`InterpretableModel.class_scores`."""
        if self.explained_model is not None:
            return self.explained_model.class_scores(image)
        return self.answer(image, pick_cells(self.cell_logits(image), self.cells).sum(1))

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """See :meth:`InterpretableModel.make_metrics`."""
        names = ["accuracy"] if "label" in data.provides else []
        if stage != "train" and self.explained_model is not None:
            names += ["fidelity", "post_hoc_accuracy"]
        elif stage != "train":
            reason = "there is no classifier that is explained (--model.explained)"
            self.skipped_metrics |= dict.fromkeys(("fidelity", "post_hoc_accuracy"), reason)
        return {name: MulticlassAccuracy(self.num_classes, average="micro") for name in names}

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        if "accuracy" in metrics:
            metrics["accuracy"].update(outputs["scores"], batch["label"])
        if "fidelity" in metrics:
            said = outputs["explained_scores"].argmax(1)
            metrics["fidelity"].update(outputs["scores"], said)
            metrics["post_hoc_accuracy"].update(outputs["scores_of_cells"], said)

    def configure_optimizers(self) -> Any:
        """Adam, of all but the classifier."""
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(own, self.lr)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how the classifier is rebuilt, in place of where it came from."""
        super().on_save_checkpoint(checkpoint)
        if (model := self.explained_model) is not None:
            options = dict(model.hparams)
            if "weights" in options:
                options["weights"] = "none"  # What the file gave is in this checkpoint.
            rebuild = {"class_path": class_path(model), "init_args": options}
            checkpoint["hyper_parameters"]["explained"] = rebuild


def _find_explained(explained: str | dict[str, Any]) -> InterpretableModel | None:
    """The classifier; of a checkpoint of L2X, with weights that are yet to be loaded."""
    if isinstance(explained, str):
        return None if explained.lower() == "none" else read_model(explained, "explained")
    if set(explained) != {"class_path", "init_args"}:
        raise ValueError(
            "explained must be a run, a checkpoint, none, or a mapping of class_path and "
            f"init_args, got a mapping of {', '.join(map(str, explained)) or 'nothing'}"
        )
    found: Any = find_class(str(explained["class_path"]), "the checkpoint", "explained")
    model: InterpretableModel = found(**explained["init_args"])
    return model


def draw_cells(logits: Tensor, count: int, temperature: float) -> Tensor:
    r"""Relaxed draws of cells: differentiable, and in the limit of low temperature, picking.

    The largest of ``count`` concrete variables, :math:`V_i = \max_j C^j_i` with :math:`C^j =
    \mathrm{softmax}((\log p + G^j) / \tau)` and Gumbel noise :math:`G`. Source: Chen et al. 2018,
    section 3.4.

    Args:
        logits: (B, h, w) of the distribution over cells.
        count: Draws.
        temperature: :math:`\tau`, above 0.

    Returns:
        (B, h, w) in [0, 1].
    """
    shape = (len(logits), count, logits[0].numel())
    # Kept off 0 and 1, whose noise is infinite.
    uniform = torch.rand(shape, device=logits.device).clamp(1e-7, 1 - 1e-7)
    noise = -(-uniform.log()).log()
    wanted = rearrange(logits, "b h w -> b 1 (h w)").log_softmax(-1)
    drawn = ((wanted + noise) / temperature).softmax(-1)
    return rearrange(drawn.amax(1), "b (h w) -> b h w", h=logits.shape[1])


def pick_cells(logits: Tensor, count: int) -> Tensor:
    """(B, count, h, w) maps of the likeliest cells of (B, h, w), 1 in its cell and 0 elsewhere."""
    flat = rearrange(logits, "b h w -> b (h w)")
    chosen = F.one_hot(flat.topk(count, dim=1).indices, flat.shape[1]).to(logits.dtype)
    return rearrange(chosen, "b k (h w) -> b k h w", h=logits.shape[1])


def over_cells(logits: Tensor) -> Tensor:
    """(B, h, w) the distribution over cells, which sums to 1."""
    chances = rearrange(logits, "b h w -> b (h w)").softmax(1)
    return rearrange(chances, "b (h w) -> b h w", h=logits.shape[1])


def masked(image: Tensor, mask: Tensor) -> Tensor:
    """Images (B, C, H, W) times a mask (B, h, w) whose cells tile them."""
    large = F.interpolate(rearrange(mask, "b h w -> b 1 h w"), image.shape[2:], mode="nearest")
    return image * large.to(image.dtype)
