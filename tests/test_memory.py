"""Memory that a step has freed is there for the next one."""

import platform
import subprocess
import sys

import pytest

from pellucid.cli import memory
from pellucid.cli.memory import keep_freed_memory
from tests.helpers import call, write_config

STEPS = """
import resource, sys
if sys.argv[1] == "kept":
    from pellucid.cli.memory import keep_freed_memory
    assert keep_freed_memory()
def step():
    blocks = [bytearray(int(sys.argv[2])) for _ in range(4)]
    for block in blocks:
        block[::4096] = b"1" * len(block[::4096])
for number in range(13):
    if number == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory._OTHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("size", [3 * 2**20, 50 * 2**20])
def test_a_step_takes_the_pages_of_the_one_before(size, monkeypatch):
    without_options(monkeypatch)
    faults = [
        int(subprocess.check_output([sys.executable, "-c", STEPS, how, str(size)], text=True))
        for how in ("freed", "kept")
    ]
    # Ten steps of four blocks; 30,720 pages for the small ones.
    pages = 10 * 4 * size // 4096
    if size > 2**22 and faults[0] < pages / 3:
        pytest.skip("large blocks have huge pages on this machine")
    assert faults[0] > pages / 3
    assert faults[1] < pages / 30


@pytest.mark.parametrize("name", memory._OTHERS)
def test_what_the_user_has_set_stays(name, monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()


def test_other_libraries_are_left_alone(monkeypatch):
    without_options(monkeypatch)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def test_training_keeps_its_memory(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("pellucid.cli.run.keep_freed_memory", lambda: calls.append(1))
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("test", *words) == 0
    assert not calls
    assert call("fit", *words, "--trainer.max_epochs=1") == 0
    assert calls == [1]
