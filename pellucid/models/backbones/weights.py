"""Files of weights: read without running any code in them, whatever tool has written them."""

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

NORMALISATION = "normalisation"
"""Key of our checkpoints: mean and standard deviation that the images were normalised with."""

# What the unpickler says of anything but tensors and plain values.
_NAMES_CODE = re.compile(r"Unsupported (?:global|class)|not an allowed global", re.IGNORECASE)

_OWN_PREFIX = "backbone."


class Normalisation(NamedTuple):
    """What images are normalised with, per channel, of values in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class WeightsError(ValueError):
    """Weights that do not exist, cannot be read, or belong to another network.

    Args:
        message: What is wrong.
        missing: Names of all tensors that the network has and the weights have not.
        unexpected: The other way round.
        misshapen: Names of all tensors that are in both, with different shapes.
    """

    def __init__(
        self,
        message: str,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        misshapen: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.missing, self.unexpected, self.misshapen = missing, unexpected, misshapen


@dataclass(frozen=True)
class Origin:
    """The backbone of one of our checkpoints, from its hyper-parameters.

    Attributes:
        backbone: Its name.
        stride: Its stride; None: the default.
        node: Its node; None: cut by stride.
        output_stride: Its output stride; None: not dilated.
    """

    backbone: str
    stride: int | None
    node: str | None
    output_stride: int | None = None


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        state: Tensors by name.
        normalisation: What the images were normalised with, where the file says so.
        origin: The backbone whose stages the names count, in one of our checkpoints.
        others: Number of tensors of the file beside ``state``, such as those of our classifiers.
    """

    state: dict[str, Tensor]
    normalisation: Normalisation | None = None
    origin: Origin | None = None
    others: int = 0


def read_weights(file: str | Path) -> Weights:
    """Read a file of weights.

    Args:
        file: A state dict that ``torch.save`` wrote, a dictionary that holds one as
            ``state_dict`` (as Lightning's checkpoints do), a safetensors file, or a checkpoint of a
            model of ours that has a :class:`~pellucid.models.backbones.Backbone`.

    Raises:
        WeightsError: There is no such file, or it is not one of weights. Code in it is not run.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise WeightsError(f"there is no file of weights {str(file)!r}")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    state = content
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        state = content["state_dict"]
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise WeightsError(
            f"weights file {str(file)!r} holds no state dict (names and tensors) but "
            f"{_describe(state)}; save the state_dict alone"
        )
    record = normalisation_of(content)
    origin = _origin(content.get("hyper_parameters"))
    if origin is not None and any(name.startswith(f"{_OWN_PREFIX}stages.") for name in state):
        own = {
            name.removeprefix(_OWN_PREFIX): tensor
            for name, tensor in state.items()
            if name.startswith(_OWN_PREFIX)
        }
        return Weights(own, record, origin, len(state) - len(own))
    return Weights(dict(state), record)


def _describe(content: Any) -> str:
    """The first names of a dictionary, or what else a file holds."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [str(name) for name in content][:4]
    return ", ".join(names) + (" ..." if len(content) > len(names) else "") if names else "nothing"


def _origin(settings: Any) -> Origin | None:
    if not isinstance(settings, Mapping) or not isinstance(settings.get("backbone"), str):
        return None
    stride, node, output_stride = map(settings.get, ("stride", "node", "output_stride"))
    return Origin(
        settings["backbone"],
        stride if isinstance(stride, int) else None,
        node if isinstance(node, str) else None,
        output_stride if isinstance(output_stride, int) else None,
    )


def normalisation_of(checkpoint: Mapping[str, Any]) -> Normalisation | None:
    """What the images were normalised with that a checkpoint's model was trained on.

    Args:
        checkpoint: What a file holds.

    Returns:
        None where it does not say.
    """
    record = checkpoint.get(NORMALISATION)
    if not isinstance(record, Mapping):
        return None
    pair = [record.get("mean"), record.get("std")]
    if not all(
        isinstance(values, list | tuple) and all(isinstance(v, int | float) for v in values)
        for values in pair
    ):
        return None
    mean, std = (tuple(float(v) for v in values) for values in pair)  # type: ignore[union-attr]
    return Normalisation(mean, std)


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"weights file {str(path)!r} needs safetensors: pip install 'pellucid[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights file {str(path)!r} cannot be read: it is truncated or no safetensors file "
            f"({error})"
        ) from error


def _read_torch(path: Path) -> Any:
    why = "it is truncated or damaged, or was not written by torch.save"
    try:
        with warnings.catch_warnings():
            # Whatever is odd about the file, what cannot be read ends below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    # Bytes that are no pickle make the unpickler fail in any way; it runs nothing all the same.
    except Exception as error:
        said = str(error)
        # torch.save writes no pickle of a protocol that this unpickler does not know.
        bare = _first_byte(path) == b"\x80" and "Unsupported operand" in said
        if isinstance(error, pickle.UnpicklingError) and (bare or _NAMES_CODE.search(said)):
            why = (
                "it holds more than tensors and plain values, which could be code (none of it was "
                "run); save the state_dict alone"
            )
        raise WeightsError(f"weights file {str(path)!r} cannot be read: {why}") from error
