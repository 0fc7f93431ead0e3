"""Tensors of a file into those of a network: which is which, and what does not fit."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.models.backbones.weights import WeightsError

_PREFIXES = ("module.", "model.", "_orig_mod.")

_LISTED = 4

# What torchvision's published DenseNets call by names that modules may no longer have.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class Loaded:
    """What was taken from a file of weights.

    Attributes:
        source: The weights' name or file.
        tensors: Number of tensors that were loaded: all that the backbone has.
        total: Number of tensors of the source.
        unexpected: Names of those that the network does not have.
    """

    source: str
    tensors: int
    total: int
    unexpected: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"weights: loaded {self.tensors} of {self.total} tensors of {self.source}"
        above = self.total - self.tensors - len(self.unexpected)
        rest = [f"{above} belong to layers that are not used"] if above > 0 else []
        if self.unexpected:
            rest.append(f"{len(self.unexpected)} to no layer ({_few(self.unexpected)})")
        return f"{text}; {', '.join(rest)}" if rest else text


def load(
    state: Mapping[str, Tensor],
    network: Mapping[str, Tensor],
    used: set[str],
    source: str,
    name: str,
    others: int = 0,
) -> Loaded:
    """Copy tensors into a network.

    Args:
        state: Tensors by name; prefixes such as ``module.`` and ``model.`` are taken off.
        network: The network's own, by name; those of ``used`` are overwritten.
        used: Names of those that are needed.
        source: The weights' name or file.
        name: The network's name, for errors.
        others: Number of tensors of the source beside ``state``.

    Raises:
        WeightsError: A tensor is missing or has another shape, or one of the layers that are used
            goes on where the network's ends: the weights are of another network. Or a value is
            not finite.
    """
    # A counter that files from before PyTorch 0.4.1 do not have, and nothing here reads.
    needed = {key for key in used if not key.endswith("num_batches_tracked")}
    total = len(state) + others
    state = max(_candidates(state), key=lambda names: len(needed & names.keys()))
    missing = sorted(needed - state.keys())
    misshapen = sorted(
        key for key in needed & state.keys() if state[key].shape != network[key].shape
    )
    unexpected = sorted(state.keys() - network.keys())
    if missing or misshapen or _foreign(unexpected, needed):
        misfits = tuple(missing), tuple(unexpected), tuple(misshapen)
        message = _misfit(state, network, *misfits)
        raise WeightsError(f"weights {source!r} are not of a {name}: {message}", *misfits)
    if broken := tuple(sorted(key for key in needed if not bool(state[key].isfinite().all()))):
        raise WeightsError(
            f"weights {source!r} have values that are not finite: {len(broken)} tensors "
            f"({_few(broken)}); its training has diverged, give an earlier checkpoint"
        )
    with torch.no_grad():
        for key in used:
            if key in state:
                network[key].copy_(state[key])
    return Loaded(source, len(used & state.keys()), total, tuple(unexpected))


def _candidates(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The tensors as named, and those under each prefix without it."""
    renamed = {_OLD_NAME.sub(r"\1\2.", key): tensor for key, tensor in state.items()}
    yield renamed
    for prefix in _PREFIXES:
        inside = {
            key.removeprefix(prefix): tensor
            for key, tensor in renamed.items()
            if key.startswith(prefix)
        }
        if inside:
            yield from _candidates(inside)


def _foreign(unexpected: Collection[str], needed: Collection[str]) -> bool:
    """Whether weights are of a network that has more layers where this one's are used."""
    used = {key.split(".")[0] for key in needed}
    learned = ("weight", "bias", "running_mean", "running_var")
    return any(
        key.split(".")[0] in used and key.rpartition(".")[2] in learned for key in unexpected
    )


def _misfit(
    state: Mapping[str, Tensor],
    network: Mapping[str, Tensor],
    missing: tuple[str, ...],
    unexpected: tuple[str, ...],
    misshapen: tuple[str, ...],
) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors missing ({_few(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({_few(unexpected)})")
    if misshapen:
        key = misshapen[0]
        parts.append(
            f"{len(misshapen)} of another shape ({_few(misshapen)}; {key}: "
            f"{tuple(state[key].shape)} in the file, {tuple(network[key].shape)} wanted)"
        )
    return "; ".join(parts)


def _few(keys: tuple[str, ...]) -> str:
    return ", ".join(keys[:_LISTED]) + (" ..." if len(keys) > _LISTED else "")
