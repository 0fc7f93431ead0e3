"""Fixtures that the whole suite shares."""

import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn import init

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)

TIMEOUT = 240.0
"""Seconds that a function may take on the two processes before they are given up; the first one
of a module imports what the module imports, which takes long on a busy machine."""

GRACE = 1.0
"""Seconds that a process has to finish after its partner has failed."""


def _serve(rank: int, rendezvous: str, connections: list[Connection]) -> None:
    """The loop of one process: receive a function, run it, send back what it returns."""
    connection = connections[rank]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=rendezvous,
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT),
    )
    connection.send_bytes(pickle.dumps((True, "ready")))
    while True:
        try:
            path, task = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            # Test folders that pytest added after the start, so that the function is found.
            sys.path[:] = path
            function, args = pickle.loads(task)
            answer = pickle.dumps((True, function(*args)))
        except BaseException:
            answer = pickle.dumps((False, f"on process {rank}:\n{traceback.format_exc()}"))
        connection.send_bytes(answer)


class TwoProcesses:
    """Two processes that share a gloo group and wait for work.

    Starting them takes seconds, so it happens once in a session, at the first call, and again
    only after a function has failed on one of them while the other one waits for it in a
    collective operation.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._context: Any = None
        self._connections: list[Connection] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call ``function(*args)`` on both processes; returns what rank 0 and rank 1 returned."""
        task = pickle.dumps((function, args))
        if not self._connections:
            self._start()
        for connection in self._connections:
            connection.send_bytes(pickle.dumps((sys.path, task)))
        return self._collect(getattr(function, "__name__", repr(function)))

    def stop(self) -> None:
        """End both processes."""
        for connection in self._connections:
            connection.close()
        self._connections = []
        if self._context is not None:
            for process in self._context.processes:
                process.kill()
                process.join()
            self._context = None

    def _start(self) -> None:
        self._starts += 1
        rendezvous = f"file://{self._folder / f'rendezvous-{self._starts}'}"
        pairs = [multiprocessing.Pipe() for _ in range(2)]
        self._connections = [ours for ours, _ in pairs]
        theirs = [connection for _, connection in pairs]
        self._context = torch.multiprocessing.spawn(
            _serve, (rendezvous, theirs), nprocs=2, join=False, daemon=True
        )
        for connection in theirs:
            connection.close()
        self._collect("the start of the two processes")

    def _collect(self, what: str) -> list[Any]:
        answers: dict[int, Any] = {}
        failure: str | None = None
        deadline = time.monotonic() + TIMEOUT
        while len(answers) < 2:
            waiting = [c for rank, c in enumerate(self._connections) if rank not in answers]
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                self.stop()
                raise AssertionError(
                    f"{what} failed {failure}" if failure else f"{what} took over {TIMEOUT:.0f} s"
                )
            for connection in ready:
                rank = self._connections.index(connection)
                try:
                    succeeded, answers[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    self.stop()
                    raise AssertionError(f"{what} failed: process {rank} ended") from None
                if not succeeded:
                    failure = failure or answers[rank]
                    deadline = min(deadline, time.monotonic() + GRACE)
        if failure:
            raise AssertionError(f"{what} failed {failure}")
        return [answers[0], answers[1]]


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Undo what a test leaves in the environment.

    Lightning's ``ddp`` sets LOCAL_RANK, by which a later run would take itself for one of several
    processes and wait for the others.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoProcesses]:
    """Two gloo processes for the whole session."""
    processes = TwoProcesses(tmp_path_factory.mktemp("gloo"))
    yield processes
    processes.stop()


@pytest.fixture
def run_on_two(two_processes: TwoProcesses) -> Callable[..., list[Any]]:
    """``run_on_two(function, *args)`` runs a function of a test module on two gloo processes.

    ``function`` must stand at the top of its module, and arguments and results must be
    picklable; the rank is ``torch.distributed.get_rank()``. Returns ``[result of rank 0, result
    of rank 1]``; an exception on either process fails the test with that process's traceback.
    """
    return two_processes.run


@pytest.fixture
def quick_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the large layers of classifiers as memory happens to be; no backbone has them."""

    def skipping(fill: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, *args, **kwargs: (
            tensor if tensor.numel() > 10**7 else fill(tensor, *args, **kwargs)
        )

    for name in ("normal_", "kaiming_uniform_"):
        monkeypatch.setattr(init, name, skipping(getattr(init, name)))
