"""What all training scripts share: options, learning rate, log lines, and a state that a kill loses minutes of."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from clips import ShardPool
from publish import SHIFTS, stricter
from safetensors.torch import load_file
from torch import Tensor, nn

from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS

SAVE_EVERY_S = 90.0
"""Seconds between two training states on disk."""

LOG_EVERY = 50
"""Steps whose means make a log line."""

LEAST_SIDE = 64
"""Of a matrix that Muon trains."""

Item = TypeVar("Item", bound=Any)

ChangeGradients: TypeAlias = Callable[[list[nn.Parameter]], None]
"""Changes the gradients of parameters in place, between the backward pass and the step."""


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state to a temporary name and move it into place."""
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    torch.save(dict(state), part)
    part.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The state that `save_state` left there, or None."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def published_weights(folder: Path, modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    """Weights of the modules that `publish.py` writes, in float32; auxiliary heads are not among them.

    What it takes off the answers of heads is put back: training ends in `publish.py` again.
    """
    files = {
        "pi3": "pi3",
        "sam2": "sam2",
        "head": "gmos_s" if isinstance(modules.get("head"), GmosS) else "gmos",
        "proposer": "gmos",
    }
    found = {}
    for name in modules:
        if name in files:
            weights = {
                key: value.float() if value.is_floating_point() else value
                for key, value in load_file(folder / f"{files[name]}.safetensors").items()
            }
            found[name] = stricter(weights, files[name], -1) if files[name] in SHIFTS else weights
    return found


def option_parser(description: str | None, *, steps: int, decay_from: int) -> argparse.ArgumentParser:
    """A parser with the options that every script has, and their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="folder of the shards that generate.py writes")
    parser.add_argument("state", type=Path, help="training state, written every few minutes and resumed from")
    parser.add_argument(
        "--start",
        type=Path,
        help="weights to begin with, at step 0: a state, or a folder that publish.py wrote",
    )
    parser.add_argument(
        "--steps", type=int, default=steps, help="optimiser steps in all (default: %(default)s)"
    )
    parser.add_argument(
        "--decay_from",
        type=int,
        default=decay_from,
        help="step where the learning rate starts to fall (default: %(default)s)",
    )
    parser.add_argument(
        "--rate", type=float, default=1.0, help="learning rate over the script's own (default: %(default)s)"
    )
    parser.add_argument("--shards", type=int, default=64, help="shards to draw from (default: %(default)s)")
    parser.add_argument(
        "--more", type=Path, metavar="FOLDER", help="further shards, such as those of `generate.py --cutouts`"
    )
    parser.add_argument(
        "--more_shards", type=int, default=24, help="of these, to draw from (default: %(default)s)"
    )
    parser.add_argument(
        "--more_share",
        type=float,
        default=0.6,
        help="share of clips drawn from them, from 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or cuda:N (default: auto, CUDA where there is one)"
    )
    return parser


def shard_pool(options: argparse.Namespace) -> ShardPool:
    """The shards that the options name."""
    return ShardPool(
        options.data,
        options.shards,
        more=options.more,
        more_count=options.more_shards,
        more_share=options.more_share,
    )


def training_device(options: argparse.Namespace) -> torch.device:
    """Where to train. On a CPU with one thread: `--workers` uses more cores better."""
    torch.set_num_threads(1)
    if options.device != "auto":
        return torch.device(options.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_device(item: Item, device: torch.device) -> Item:
    """A dataclass whose tensors are on a device."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return replace(item, **{name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)})


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """For scripts whose steps several processes can share."""
    parser.add_argument(
        "--workers", type=int, default=1, help="processes that share each step, each with a batch of its own"
    )
    parser.add_argument("--rank", type=int, default=0, help="number of this process among them, from 0")
    parser.add_argument(
        "--port", type=int, default=29500, help="of this machine, where they meet (default: %(default)s)"
    )


@contextmanager
def workers(options: argparse.Namespace) -> Iterator[ChangeGradients | None]:
    """Meet the other workers, then leave them at the end.

    Yields:
        What makes every worker take the same step; None where there is one worker.
    """
    if options.workers == 1:
        yield None
        return
    # Not through a file: one that a killed run left would be waited on for ever.
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{options.port}",
        rank=options.rank,
        world_size=options.workers,
    )
    yield average_gradients
    # A gloo thread that is still there when the interpreter ends can abort the process (PyTorch issue 190489).
    # Not after an error: the others may be waiting for this worker, and so would it for them (torchtitan 1342).
    dist.destroy_process_group()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Let every worker take the step that a batch of all their windows would give."""
    found = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in found])
    dist.all_reduce(flat)
    for parameter, mean in zip(found, flat.split([p.numel() for p in found]), strict=True):
        parameter.grad = mean.view_as(parameter) / dist.get_world_size()


def is_hidden_matrix(parameter: nn.Parameter) -> bool:
    """Whether Muon may train it: a matrix between hidden layers, neither an embedding nor a read-out."""
    return parameter.ndim == 2 and min(parameter.shape) >= LEAST_SIDE


def rate_factor(step: int, *, warm_from: int, warm_up: int, decay_from: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise, a plateau, half a cosine down to zero."""
    rise = min(1.0, (step - warm_from + 1) / warm_up)
    if step < decay_from:
        return rise
    done = (step - decay_from) / max(1, steps - decay_from)
    return rise * (0.5 + 0.5 * math.cos(math.pi * done))


class TrainingLoop:
    """Steps of an optimiser over modules, resumed from the state file where there is one, else from `--start`.

    Args:
        options: of `option_parser`.
        modules: what the state keeps, by name.
        optimisers: over some of their parameters.
        rates: peak learning rate of each of their groups, in order.
        warm_up: steps in which the rate rises.
        marks: further values in the state. Where they are not those of the state, the optimiser starts
            anew and the rate rises again.
        saves: whether this process writes the state.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        modules: Mapping[str, nn.Module],
        optimisers: Sequence[torch.optim.Optimizer],
        *,
        rates: Sequence[float],
        warm_up: int,
        marks: Mapping[str, Any] | None = None,
        saves: bool = True,
    ) -> None:
        self._options = options
        self._modules = modules
        self._optimisers = optimisers
        self._rates = rates
        self._warm_up = warm_up
        self._marks = dict(marks or {})
        self._saves = saves
        self._warm_from = 0
        self._running: dict[str, list[float]] = {}
        self.step = 0
        self._resume()
        self._saved = self._started = time.monotonic()

    def _resume(self) -> None:
        kept = load_state(self._options.state)
        for name, weights in (kept or self._beginning()).items():
            if name in self._modules:
                self._modules[name].load_state_dict(weights)
        if kept is None:
            return
        self.step = kept["step"]
        if all(kept[name] == value for name, value in self._marks.items()):
            for optimiser, state in zip(self._optimisers, kept["optimisers"], strict=True):
                optimiser.load_state_dict(state)
        else:
            self._warm_from = self.step

    def _beginning(self) -> dict[str, Any]:
        start: Path | None = self._options.start
        if start is None:
            return {}
        if start.is_dir():
            return published_weights(start, self._modules)
        return torch.load(start, weights_only=True)  # type: ignore[no-any-return]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self._optimisers for group in optimiser.param_groups]

    def remaining(self) -> Iterator[int]:
        """Numbers of the steps still to do, the learning rate set for each; `take` must end each."""
        while self.step < self._options.steps:
            factor = rate_factor(
                self.step,
                warm_from=self._warm_from,
                warm_up=self._warm_up,
                decay_from=self._options.decay_from,
                steps=self._options.steps,
            )
            for group, peak in zip(self._groups(), self._rates, strict=True):
                group["lr"] = peak * self._options.rate * factor
            yield self.step

    def take(
        self,
        loss: Tensor,
        numbers: Mapping[str, float],
        gradients: ChangeGradients | None = None,
    ) -> None:
        """Take a step down the loss; `gradients` may change the gradients before they are clipped."""
        parameters = [p for group in self._groups() for p in group["params"]]
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss.backward()
        if gradients is not None:
            gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        self.step += 1
        self._log(numbers)
        if self._saves and (
            time.monotonic() - self._saved > SAVE_EVERY_S or self.step == self._options.steps
        ):
            self._save()

    def _log(self, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._running.setdefault(name, []).append(value)
        if self.step % LOG_EVERY == 0 or self.step in (5, 20):
            means = "  ".join(
                f"{name} {np.mean(values):.3f}" for name, values in sorted(self._running.items())
            )
            rate = self._groups()[0]["lr"]
            print(f"{self.step} {time.monotonic() - self._started:.0f} s  lr {rate:.1e}  {means}", flush=True)
            self._running = {}

    def _save(self) -> None:
        state = {name: module.state_dict() for name, module in self._modules.items()}
        state |= {"optimisers": [each.state_dict() for each in self._optimisers], "step": self.step}
        save_state(self._options.state, state | self._marks)
        self._saved = time.monotonic()
