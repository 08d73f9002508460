"""The published checkpoints: files are never run, networks are recognised and loaded strictly."""

from __future__ import annotations

import pickle
import re
import shlex
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import GmosError
from ...runtime.regular_file import open_regular

STATE_ENTRIES = ("model_state_dict", "model")
"""Entries of a pickled checkpoint that hold its state dict: GMOS and GMOS-S, then SAM2."""

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How `torch.save` opened a file before PyTorch 1.6: a pickled magic number."""
LFS_MAGIC = b"version https://git-lfs"
HEADER_LENGTH_BYTES = 8
"""A safetensors file opens with the length of its JSON header, little-endian."""

REASON_LENGTH = 120
"""Characters of a library's own message that are passed on."""

_DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)
"""What reading a damaged pickle or archive raises: the reader follows its instructions into the void."""

State = dict[str, Tensor]

Network = Literal["Pi3", "SAM2", "GMOS", "GMOS-S"]

FLAGS: dict[Network, str] = {
    "Pi3": "--pi3_ckpt",
    "SAM2": "--sam2_ckpt",
    "GMOS": "--gmos_ckpt",
    "GMOS-S": "--gmos_s_ckpt",
}
"""The command-line option that each checkpoint goes with."""

SIGNATURES: dict[Network, str] = {
    "Pi3": "encoder.patch_embed.proj.weight",
    "SAM2": "image_encoder.trunk.patch_embed.proj.weight",
    "GMOS": "obj_token",
    "GMOS-S": "fg_out.weight",
}
"""A key that only that network has, at any size."""

PI3_UNUSED_PREFIXES = (
    "point_decoder.",
    "point_head.",
    "conf_decoder.",
    "conf_head.",
    "camera_decoder.",
    "camera_head.",
)
"""Heads of the published Pi3 checkpoint that GMOS does not use."""

WRAPPER_PREFIX = "module."
"""What distributed training puts before every key."""

WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored as; 8-bit floats need scales that a state dict does not name."""

NAMED_KEYS = 3
"""How many offending keys a message names."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def read_state(path: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> State:
    """The state dict in a checkpoint file, on the CPU and memory-mapped where the format allows it.

    Safetensors hold the tensors themselves. A pickled checkpoint (`torch.save`) holds them under one of
    `STATE_ENTRIES`, or is itself the state dict; it is read with `weights_only=True`.

    Args:
        path: the file; its content decides what it is, its name does not.
        wanted: keys to keep.

    Raises:
        GmosError: the file cannot be read, is damaged, is no checkpoint or needs more than tensors.
    """
    head = _head(path)
    if head.startswith(ZIP_MAGIC):
        return _unwrap(path, _read_archive(path), wanted)
    if head.startswith(LEGACY_MAGIC):
        return _unwrap(path, _load(path, mmap=False), wanted)
    if head.startswith(PICKLE_MAGIC):
        raise GmosError(
            f"{path} is a plain pickle and is refused, since loading it could run code: expected safetensors "
            "or a file written by torch.save; on a machine where you trust it, write its tensors with "
            "safetensors.torch.save_file"
        )
    if head.startswith(LFS_MAGIC):
        raise GmosError(
            f"{path} is a Git LFS pointer and not the checkpoint itself: fetch it with `git lfs pull`"
        )
    header_bytes = int.from_bytes(head[:HEADER_LENGTH_BYTES], "little")
    if head[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + 1] == b"{" and header_bytes < 2**40:
        return _read_safetensors(path, wanted)
    raise GmosError(
        f"{path} is not a checkpoint: expected a safetensors file or one written by torch.save; "
        "check that the download is the file itself and not a web page"
    )


def _head(path: Path) -> bytes:
    """The first bytes of a file that can be read."""
    try:
        with open_regular(path) as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise GmosError(f"checkpoint {path} does not exist: give the path of the downloaded file") from error
    except IsADirectoryError as error:
        raise GmosError(f"checkpoint {path} is a directory: give the file in it") from error
    except OSError as error:
        raise GmosError(
            f"checkpoint {path} cannot be read ({error.strerror}): check the path and its permissions"
        ) from error
    if not head:
        raise GmosError(f"checkpoint {path} is empty: download it again")
    return head


def _damaged(path: Path, detail: object) -> GmosError:
    """The error for a file that is of a known format and does not hold together."""
    lines = str(detail).strip().splitlines()
    reason = lines[0].rstrip(".: ")[:REASON_LENGTH] if lines else type(detail).__name__
    return GmosError(f"checkpoint {path} is truncated or corrupt ({reason}): download it again")


def _read_safetensors(path: Path, wanted: Callable[[str], bool]) -> State:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys() if wanted(key)}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_archive(path: Path) -> object:
    """A zip archive as `torch.save` writes it since PyTorch 1.6."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise GmosError(f"{path} is a TorchScript program: expected a checkpoint with a state dict")
    if not any(name.endswith("data.pkl") for name in names):
        raise GmosError(f"{path} is a zip archive and not a checkpoint: expected one written by torch.save")
    return _load(path, mmap=True)


def _load(path: Path, *, mmap: bool) -> object:
    try:
        with warnings.catch_warnings():
            # Said of files that then fail to load, and the error below is the one line about them.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        types = _refused_types(path, str(error))
        if not types:
            reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
            raise _damaged(path, reason.group(1) if reason else "not a valid pickle") from error
        raise GmosError(
            f"{path} is refused: it holds {', '.join(types)} beside tensors, and loading these could run "
            "code; on a machine where you trust the file, turn it into safetensors with "
            f"`{conversion_command(path)}` and give {path.stem}.safetensors"
        ) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _refused_types(path: Path, message: str) -> tuple[str, ...]:
    """Names of the types that `weights_only` refuses; none if that is not why it failed."""
    names = set(re.findall(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", message))
    if zipfile.is_zipfile(path):
        try:
            # All of them, where the message names the first; reads instructions without following them.
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (pickle.UnpicklingError, *_DAMAGE):
            return tuple(sorted(names))
    return tuple(sorted(names))


def conversion_command(path: Path) -> str:
    """A command that turns a trusted pickled checkpoint into safetensors beside it."""
    program = (
        "import sys, torch; from safetensors.torch import save_file; "
        "d = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        f"d = next((d[k] for k in {STATE_ENTRIES} if k in d), d); "
        "save_file({k: v.detach().clone().contiguous() for k, v in d.items()}, sys.argv[2])"
    )
    return (
        f'python -c "{program}" {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix(".safetensors")))}'
    )


def _unwrap(path: Path, loaded: object, wanted: Callable[[str], bool]) -> State:
    """The state dict inside what a pickle held."""
    if isinstance(loaded, Tensor) or not isinstance(loaded, Mapping):
        raise GmosError(f"{path} holds a {type(loaded).__name__}: expected a checkpoint with a state dict")
    entry = next((name for name in STATE_ENTRIES if isinstance(loaded.get(name), Mapping)), None)
    state = loaded[entry] if entry else loaded
    if not state:
        raise GmosError(f"{path} holds an empty state dict: download it again")
    if all(isinstance(key, str) for key in state):
        others = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if not others:
            return {key: value for key, value in state.items() if wanted(key)}
        if entry:
            raise GmosError(
                f"{path}: {others[0]} in its {entry} entry has type {type(state[others[0]]).__name__}, "
                "expected only tensors"
            )
    found = ", ".join(map(str, list(loaded)[:5]))
    raise GmosError(
        f"{path} holds no state dict: expected an entry {' or '.join(STATE_ENTRIES)}, found {found}"
    )


def load_network(path: Path, network: Network, build: Callable[[], ModuleT]) -> ModuleT:
    """A network from its published file, safetensors or pickled. Half-precision files become float32.

    Args:
        path: of the checkpoint.
        network: whose it is.
        build: makes the module; its weights need no memory.

    Raises:
        GmosError: the file cannot be used; see `network_state` and `assign_strict`.
    """
    state = network_state(path, network)
    with torch.device("meta"):
        module = build()
    assign_strict(module, state, path, network)
    return module.eval()


def network_state(path: Path, network: Network) -> State:
    """The state dict of a checkpoint, not yet held against a network: use `assign_strict`.

    Without the heads of Pi3 that GMOS does not use, and without the prefix of distributed training.

    Raises:
        GmosError: the file cannot be read (see `read_state`) or belongs to another network.
    """
    state = read_state(path, wanted=lambda key: network != "Pi3" or not key.startswith(PI3_UNUSED_PREFIXES))
    wrapped = sum(key.startswith(WRAPPER_PREFIX) for key in state)
    if wrapped not in (0, len(state)):
        raise GmosError(
            f"{path}: {wrapped} of {len(state)} keys start with {WRAPPER_PREFIX!r}, expected all or none; "
            "the file mixes two state dicts"
        )
    state = {key.removeprefix(WRAPPER_PREFIX): tensor for key, tensor in state.items()}
    if SIGNATURES[network] not in state:
        # Caught before keys are compared one by one.
        for other, key in SIGNATURES.items():
            if key in state:
                raise GmosError(
                    f"{path} looks like a {other} checkpoint and was given as {network}: "
                    f"give it with {FLAGS[other]}, and the {network} checkpoint with {FLAGS[network]}"
                )
    return state


def check_keys(
    expected: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor], path: Path, what: str
) -> None:
    """Hold the keys and shapes of a checkpoint against those of the network.

    Args:
        expected: shape by key.
        given: tensors by key.
        path: the file, for the message.
        what: the network's name, for the message.

    Raises:
        GmosError: names the first keys that are missing, unexpected or of another shape, and counts them.
    """
    misshapen = [
        f"{key} is {list(given[key].shape)}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in given and tuple(given[key].shape) != tuple(shape)
    ]
    findings = (
        ("missing", [key for key in expected if key not in given]),
        ("unexpected", [key for key in given if key not in expected]),
        ("of another shape", misshapen),
    )
    faults = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in findings if keys]
    if faults:
        raise GmosError(
            f"{path} does not fit the {what} network: keys {'; '.join(faults)}; "
            "check that the file and the preset belong together"
        )


def assign_strict(module: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load a state dict that must match the module key by key and shape by shape.

    Tensors are taken over as they are, without a copy, so the module may be on the meta device and
    memory holds the weights once. Those of another floating dtype than the module's are converted.
    Gradients are switched off.

    Raises:
        GmosError: as `check_keys`, or a tensor is of no `WEIGHT_DTYPES` where the module's is.
    """
    own = module.state_dict()
    check_keys({key: tuple(tensor.shape) for key, tensor in own.items()}, state, path, what)
    for key, tensor in own.items():
        if (state[key].dtype in WEIGHT_DTYPES) != tensor.is_floating_point():
            raise GmosError(
                f"{path}: {key} of the {what} network is {state[key].dtype}, expected {tensor.dtype}: "
                "quantised weights cannot be loaded, give the original checkpoint"
            )
    module.load_state_dict({key: state[key].to(tensor.dtype) for key, tensor in own.items()}, assign=True)
    module.requires_grad_(False)


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:NAMED_KEYS]) + (", .." if len(keys) > NAMED_KEYS else "")
