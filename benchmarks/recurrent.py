"""How long the recurrent layers take beside torch.nn.LSTM of the same size, in the same run.

    python benchmarks/recurrent.py [--threads 1] [--rounds 5] [--batch-sizes 1 32] [--cell-dims 625 1024 1250]

A pass over clips of 300 frames of 1152 values, all of full length, which is what nn.LSTM is best at: without gradient
("forward"), and with the gradients of every weight from the last state ("training"). Rounds take each layer in turn,
the best of each counts. The goal is a GRU within twice nn.LSTM's time. "packed LSTM" is nn.LSTM over packed clips of
100 to 300 frames, the way without masks; "our LSTM over the same clips" does more steps in the same call as ever.
One thread, the default, is measured in its CPU time, which other work on the machine leaves alone; several threads, and
a GPU, by the wall clock: theirs wait for one another at every step, so the machine must be idle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, its folder is what Python looks in

from benchmarks.measure import cores
from yt8m_ray.models.recurrent import GRU, LSTM

MAX_FRAMES = 300
INPUT_DIM = 1152
GOAL = 2.0

Pass = Callable[[], torch.Tensor]
"""Runs a layer over the batch and returns its last state."""


def passes(batch_size: int, cell_dim: int, device: torch.device) -> dict[str, tuple[nn.Module, Pass]]:
    """Returns the layers by name, the peer first, each with what to time."""
    torch.manual_seed(0)
    frames = torch.randn(batch_size, MAX_FRAMES, INPUT_DIM, device=device)
    full = torch.full((batch_size,), MAX_FRAMES, device=device)
    lengths = torch.linspace(MAX_FRAMES, 100, batch_size).long()
    on_device = lengths.to(device)
    peer = nn.LSTM(INPUT_DIM, cell_dim, batch_first=True).to(device)
    gru, lstm = GRU(INPUT_DIM, cell_dim).to(device), LSTM(INPUT_DIM, cell_dim).to(device)

    def packed() -> torch.Tensor:
        last: torch.Tensor = peer(nn.utils.rnn.pack_padded_sequence(frames, lengths, batch_first=True))[1][0]
        return last

    return {
        "nn.LSTM": (peer, lambda: peer(frames)[1][0]),
        "our GRU": (gru, lambda: gru(frames, full)[1]),
        "our LSTM": (lstm, lambda: lstm(frames, full)[1][0][1]),
        "packed LSTM": (peer, packed),
        "our LSTM over the same clips": (lstm, lambda: lstm(frames, on_device)[1][0][1]),
    }


def clock() -> float:
    one_thread = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if one_thread else time.perf_counter()


def seconds(layer: nn.Module, run: Pass, *, training: bool) -> float:
    layer.train(training)
    layer.zero_grad()
    wait_for_device()
    started = clock()
    with torch.set_grad_enabled(training):
        last = run()
    if training:
        last.sum().backward()
    wait_for_device()
    return clock() - started


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(batch_size: int, cell_dim: int, *, training: bool, rounds: int, device: torch.device) -> dict[str, float]:
    """Returns milliseconds of the peer, and what every layer takes as a multiple of it."""
    layers = passes(batch_size, cell_dim, device)
    times: dict[str, list[float]] = {name: [] for name in layers}
    for number in range(rounds + 1):
        for name, (layer, run) in layers.items():
            elapsed = seconds(layer, run, training=training)
            if number:  # the first one warms up
                times[name].append(elapsed)
    best = {name: min(found) for name, found in times.items()}
    peer = best["nn.LSTM"]
    return {"nn.LSTM ms": round(1e3 * peer, 1), **{name: round(best[name] / peer, 2) for name in list(best)[1:]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--cell-dims", type=int, nargs="+", default=[625, 1024, 1250])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.threads <= len(cores()):
        os.sched_setaffinity(0, cores()[: options.threads])
    figures = {}
    for batch_size, cell_dim, training in itertools.product(options.batch_sizes, options.cell_dims, (False, True)):
        title = f"{'training' if training else 'forward'}, batch {batch_size}, {cell_dim} cells"
        found = measure(
            batch_size, cell_dim, training=training, rounds=options.rounds, device=torch.device(options.device)
        )
        figures[title] = found
        print(title, *(f"{name} {value}" for name, value in found.items()), sep=", ", file=sys.stderr)
    worst = max(found["our GRU"] for found in figures.values())
    print(json.dumps({"figures": figures, "worst_gru": worst, "goal": GOAL, "is_met": worst <= GOAL}))


if __name__ == "__main__":
    main()
