"""Whether images are normalised as the weights want or as the data options say."""

from types import SimpleNamespace

import pytest

from pellucid.cli.options import PellucidCLI


class Data:
    def __init__(self, normalise: bool = True, mean: tuple[float, ...] = (0.5,)) -> None:
        self.used: list[tuple[object, object]] = []

    def use_normalisation(self, mean: object, std: object) -> None:
        self.used.append((mean, std))


def used_with(options: dict[str, object]) -> list[tuple[object, object]]:
    data = Data()
    cli = SimpleNamespace(config=SimpleNamespace(data={"init_args": options}), datamodule=data)
    cli._user_normalises = lambda: PellucidCLI._user_normalises(cli)
    PellucidCLI.normalise_for(cli, SimpleNamespace(normalisation=((0.1,), (0.2,))))
    return data.used


@pytest.mark.parametrize("options", [{}, {"normalise": True}, {"normalise": True, "mean": (0.5,)}])
def test_defaults_that_a_complete_config_repeats_are_no_wish(options) -> None:
    assert used_with(options) == [((0.1,), (0.2,))]


@pytest.mark.parametrize("options", [{"normalise": False}, {"mean": (0.4,)}])
def test_what_the_user_says_stays(options) -> None:
    assert used_with(options) == []
