"""Checkpoint files of every format as state dicts: files are never run, whole, and hold plain tensors."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shlex
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import GmosError
from ...runtime.files.checkpoint_identity import checkpoint_shards
from ...runtime.files.regular_file import open_regular

logger = logging.getLogger(__name__)

STATE_ENTRIES = ("model_state_dict", "model", "state_dict", "module", "ema", "model_ema", "ema_state_dict")
"""Entries of a pickled checkpoint that hold its state dict: GMOS and GMOS-S, then SAM2, then what trainers write."""

ENTRY_DEPTH = 3
"""Such entries inside each other, at most."""

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How `torch.save` opened a file before PyTorch 1.6: a pickled magic number."""
LFS_MAGIC = b"version https://git-lfs"
HEADER_LENGTH_BYTES = 8
"""A safetensors file opens with the length of its JSON header, little-endian."""

REASON_LENGTH = 120
"""Characters of a library's own message that are passed on."""

KEY_LETTERS = 120
"""Those of a key that a message names: a file may have any."""

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


def read_state(path: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> State:
    """The state dict in a checkpoint file, on the CPU and memory-mapped where the format allows it.

    Safetensors hold the tensors themselves. A pickled checkpoint (`torch.save`) holds them under one of
    `STATE_ENTRIES`, or is itself the state dict; it is read with `weights_only=True`.

    Args:
        path: the file; its content decides what it is, its name does not. One of several files that are named as
            shards, or their index, stands for all of them.
        wanted: keys to keep.

    Raises:
        GmosError: a file cannot be read, is damaged, is no checkpoint or needs more than plain tensors.
    """
    shards = checkpoint_shards(path)
    if len(shards) == 1:
        return _read_file(path, wanted)
    state: State = {}
    for shard in shards:
        part = _read_file(shard, wanted)
        if twice := sorted(part.keys() & state.keys()):
            raise GmosError(
                f"{shard}: {twice[0]} is in another shard of {path.name} too; download the shards again"
            )
        state |= part
    return state


def _read_file(path: Path, wanted: Callable[[str], bool]) -> State:
    head = _head(path)
    # First: the length of a header may begin as a pickle does.
    header_bytes = int.from_bytes(head[:HEADER_LENGTH_BYTES], "little")
    if head[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + 1] == b"{" and header_bytes < 2**40:
        return _read_safetensors(path, wanted)
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
    except (SafetensorError, *_DAMAGE) as error:
        raise _damaged(path, error) from error


def _read_archive(path: Path) -> object:
    """A zip archive as `torch.save` writes it since PyTorch 1.6, with the checksums of all that is in it.

    PyTorch asks for none of them. What is summed up here is read once: PyTorch maps the same pages.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            holds_state = any(name.endswith("data.pkl") for name in names)
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
            if (
                not packed
                and sum(member.file_size for member in archive.infolist()) > os.fstat(file.fileno()).st_size
            ):
                # Members that lie over one another: a small file would be read for days.
                raise ValueError("its members are larger than itself")
            wrong = archive.testzip() if holds_state and not packed else None
    except (zipfile.BadZipFile, *_DAMAGE) as error:
        raise _damaged(path, error) from error
    if wrong is not None:
        raise _damaged(path, f"the checksum of {wrong} does not fit")
    if any(name.endswith("/constants.pkl") for name in names):
        raise GmosError(f"{path} is a TorchScript program: expected a checkpoint with a state dict")
    if holds_state and packed:
        raise GmosError(f"{path} has compressed members: expected a checkpoint as torch.save writes it")
    if not holds_state:
        raise GmosError(f"{path} is a zip archive and not a checkpoint: expected one written by torch.save")
    return _load(path, mmap=True)


def _load(path: Path, *, mmap: bool) -> object:
    # PyTorch 2.13 reads what has that ending as safetensors, whatever is in it, and maps only what it gets by name.
    named_wrong = path.name.endswith(".safetensors")
    try:
        with (
            open_regular(path) if named_wrong else nullcontext(path) as given,
            warnings.catch_warnings(),
        ):
            # Said of files that then fail to load, and the error below is the one line about them.
            warnings.filterwarnings("ignore", message="Detected pickle protocol|TypedStorage is deprecated")
            return torch.load(given, map_location="cpu", weights_only=True, mmap=mmap and not named_wrong)
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
        # A module in the place of its state dict, in an entry or on its own.
        "s = lambda m: getattr(m, 'state_dict', lambda: m)(); "
        f"d = s(d); d = next((s(d[k]) for k in {STATE_ENTRIES} if k in d), d); "
        "save_file({k: v.detach().clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"
    )
    return (
        f'python -c "{program}" {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix(".safetensors")))}'
    )


def _unwrap(path: Path, loaded: object, wanted: Callable[[str], bool]) -> State:
    """The state dict inside what a pickle held."""
    if isinstance(loaded, Tensor) or not isinstance(loaded, Mapping):
        raise GmosError(f"{path} holds a {type(loaded).__name__}: expected a checkpoint with a state dict")
    state, entry = loaded, ""
    for _ in range(ENTRY_DEPTH):
        entries = [name for name in STATE_ENTRIES if isinstance(state.get(name), Mapping)]
        if not entries:
            break
        entry = entries[0]
        if len(entries) > 1:
            logger.warning("%s: its entry %s is taken; it has %s too", path, entry, ", ".join(entries[1:]))
        state = state[entry]
    if not state:
        raise GmosError(f"{path} holds an empty state dict: download it again")
    if all(isinstance(key, str) for key in state):
        others = [key for key, value in state.items() if not isinstance(value, Tensor)]
        if not others:
            return {key: _plain(path, key, value) for key, value in state.items() if wanted(key)}
        if entry:
            raise GmosError(
                f"{path}: {others[0]:.{KEY_LETTERS}} in its {entry} entry has type {type(state[others[0]]).__name__}, "
                "expected only tensors"
            )
    found = ", ".join(map(str, list(loaded)[:5]))
    raise GmosError(
        f"{path} holds no state dict: expected one of the entries {', '.join(STATE_ENTRIES)}, found {found:.200}"
    )


def _plain(path: Path, key: str, tensor: Tensor) -> Tensor:
    """A tensor that has its values, one after the other, as they are."""
    oddity = _oddity(tensor)
    if oddity is not None:
        raise GmosError(
            f"{path}: {key:.{KEY_LETTERS}} is {oddity}, expected a plain tensor: give the original checkpoint"
        )
    return tensor


def _oddity(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"{'nested' if tensor.is_nested else 'sparse'}"
    if tensor.is_quantized or tensor.is_complex():
        return f"of {tensor.dtype}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        # A few bytes can stand for any number of elements.
        return "larger than what is stored of it"
    return None
