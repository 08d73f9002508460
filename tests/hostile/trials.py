"""What is tried: a class is a good file, what changes it, and what of the product reads it."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import av
import mutators
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from gmos_deploy import cli
from gmos_deploy.calibration.sampling.sample_store import Sample
from gmos_deploy.commands.run import run_command
from gmos_deploy.evaluation.benchmarks.label_maps import read_label_map
from gmos_deploy.evaluation.benchmarks.mos_i import _read_motion_gate
from gmos_deploy.evaluation.benchmarks.motion_grouping import read_boxes
from gmos_deploy.evaluation.benchmarks.time_annotation import read_time_annotation, summarise_time_annotation
from gmos_deploy.evaluation.report.terminal import show
from gmos_deploy.export.inspection import as_json, inspection
from gmos_deploy.gmos_ref.checkpoints.loading import network_state
from gmos_deploy.gmos_ref.reference_config import FOLDER, PACKED_BUNDLES
from gmos_deploy.runtime.bundle.external_data import external_locations
from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.bundle.packed_bundle import unpack_bundle
from gmos_deploy.runtime.onnx.sessions import OnnxDevice, SessionOptions, load_onnxruntime, open_session
from gmos_deploy.runtime.pipeline.first_pass import FirstPass, FirstPassFile
from gmos_deploy.runtime.pipeline.label_store import LabelStore
from gmos_deploy.runtime.pipeline.proposals import Proposals
from gmos_deploy.runtime.pipeline.stage_on import TrackedVideo
from gmos_deploy.runtime.results.completion import ResultSet, finished
from gmos_deploy.runtime.tensorrt.record import (
    DeviceIdentity,
    EngineRecord,
    EngineTensor,
    ProfileRange,
    read_engine_record,
    write_engine_record,
)
from gmos_deploy.runtime.video.frame_directory import check_frames, read_frame
from gmos_deploy.runtime.video.inputs import resolve_inputs

Change = Callable[[bytes, Random], bytes]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A class: `seeds` are good files by content, `name` what they are called, `read` what is done with one.

    `weight` is how many are tried at scale 1.
    """

    what: str
    seeds: tuple[bytes, ...]
    change: Change
    name: str
    read: Callable[[Path], object]
    weight: int

    def case(self, random: Random) -> bytes:
        """A changed file."""
        content = self.change(random.choice(self.seeds), random)
        return (
            self.change(content, random)
            if self.change is mutators.bits and random.random() < 0.2
            else content
        )


RECORD = EngineRecord(
    network="proposal_labels",
    flavour="tensorrt",
    library_version="10.3.0.26",
    sources={"proposal_labels.onnx": "ab" * 32},
    plan_bytes=7,
    plan_sha256="cd" * 32,
    precision="fp32",
    device=DeviceIdentity(name="Orin", compute_capability=(8, 7)),
    targets=(),
    platform="linux-aarch64",
    profiles=({"video_hw": ProfileRange(min=(64, 64), opt=(720, 1280), max=(2160, 4096))},),
    tensors=(EngineTensor(name="labels", dtype="uint8", shape=(-1, -1, -1), mode="output"),),
    options={"workspace_mib": None, "version_compatible": False},
    activation_bytes=(1024,),
    weight_bytes=0,
    attention={"expected": 0, "fused": 0, "sums": [], "lost": None},
    built="2026-11-22T20:00:00+00:00",
    seconds=1.5,
)

TIME_ANNOTATION = b'seq_name,time_anno,ann_frames\nbear,"{\'1\': [[0, 3], [5, 9]]}",12\ncow,"{}",8\n'
BOXES = b'id,frame,box\n1,/cat/00001.jpg,"[2, 1, 2, 30, 40]"\n2,/cat/00002.jpg,"[2, 1.5, 2, 30, 40]"\n'


def image(mode: str, kind: str) -> bytes:
    """A small picture with something in it."""
    made, out = Image.new(mode, (17, 13)), io.BytesIO()
    for i in range(13):
        made.putpixel((i, i), (i,) * len(made.getbands()) if len(made.getbands()) > 1 else i % 5)
    if mode == "P":
        made.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 9, 9, 9, 8, 8, 8])
    made.save(out, kind)
    return out.getvalue()


def video(codec: str, kind: str) -> bytes:
    """Eight small frames."""
    out = io.BytesIO()
    texture = np.random.default_rng(7).integers(0, 255, (48, 64, 3), np.uint8)
    with av.open(out, "w", format=kind) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for i in range(8):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, i, axis=1), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def npz_member(content: bytes, random: Random) -> bytes:
    """One array of an archive with another header, and a checksum that fits; or bits."""
    if random.random() < 0.3:
        return mutators.bits(content, random)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        wrong = random.choice(names)
        for name in names:
            data = old.read(name)
            new.writestr(name, mutators.npy_header(data, random) if name == wrong else data)
    return out.getvalue()


def read_video(path: Path) -> None:
    """Check it and decode its first frames, twice as a run does."""
    (sequence,) = resolve_inputs([path], fps=None, stride=1)
    for _ in range(2):
        with sequence.open() as reader, closing(iter(reader)) as frames:  # type: ignore[type-var]
            for _frame in islice(frames, 12):
                pass


def read_picture(path: Path) -> None:
    """As a frame; a label map is read in any case."""
    with suppress(cli.GmosError):
        read_label_map(path)
    check_frames([path])
    read_frame(path)


def read_bundle(path: Path) -> None:
    """Open it and show what it holds."""
    bundle = open_bundle(path.parent)
    as_json(bundle)
    show(inspection(bundle), console=Console(file=io.StringIO(), width=80))
    bundle.table_source()


def read_graph(path: Path) -> None:
    """Look for its files and load it."""
    external_locations(path)
    open_session(path, OnnxDevice(kind="cpu"), SessionOptions(threads=1), load_onnxruntime())


def read_results(path: Path) -> None:
    """Whether a sequence is finished."""
    save_dir = path.parent.parent
    settings = {"input": "ab"}
    finished(
        ResultSet(
            save_dir=save_dir, sequence="s", variant="gmos", modes=frozenset({"mask"}), settings=settings
        )
    )


def command(*arguments: str) -> None:
    """gmos-run in this process; anything but a line and status 2 is told by the caller."""
    status = cli.guarded(run_command, "gmos-run", list(arguments))
    if status not in (0, cli.BAD_INPUT_STATUS):
        raise RuntimeError(f"status {status}")
    if status:
        raise cli.GmosError("refused")


def odd_command(path: Path) -> None:
    """gmos-run with what a file holds: one argument a line."""
    words = path.read_bytes().split(b"\n")
    command(*(os.fsdecode(word).replace("HERE", str(path.parent)) for word in words))


ARGUMENTS = (
    *("HERE/pipe", "HERE/loop", "HERE/missing", "HERE", "/dev/zero", "/dev/null", "HERE/" + "n" * 300),
    *(
        "HERE/\udcff\udcfe.mp4",
        "HERE/\x1b[31m.mp4",
        "-",
        "",
        "HERE/good.mp4",
        "http://127.0.0.1:9/x.mp4",
        "HERE/[b].mp4",
    ),
)
NUMBERS = ("1e-9", "1e308", "nan", "-1", "0", "25", "1e400", str(2**70), "9" * 5000, "x", "")
OPTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *(
        (name, ARGUMENTS)
        for name in ("--bundle", "--pi3_ckpt", "--sam2_ckpt", "--gmos_ckpt", "--save_dir", "--root")
    ),
    *(
        (name, NUMBERS)
        for name in ("--fps", "--stride", "--batch_size", "--device_budget", "--max_conditioning")
    ),
    ("--thresholds", ("iou=nan", "iou=1e400", "max_objects=" + "9" * 400, "x=1", "iou", "=", "")),
    ("--save_mode", ("mask", "mask+mask", "+", "x" * 5000, "\x1b")),
    ("--preset", ("[red]x[/red]", "../nano", "nano")),
    ("--variant", ("gmos", "gmos-s")),
)


def arguments(content: bytes, random: Random) -> bytes:
    """An input and some options, all of them odd; the save directory last, so that results stay in it."""
    words = [random.choice(ARGUMENTS)]
    for name, values in random.sample(OPTIONS, random.randint(1, 3)):
        words += [name, random.choice(values)]
    words += ["--save_dir", "HERE/good.mp4"]
    return b"\n".join(os.fsencode(word.replace("\n", " ")) for word in words)


def first_pass() -> FirstPass:
    """Of two frames with an object."""
    tables, maps = np.zeros((2, 20), np.float32), LabelStore(2, (4, 4))
    maps[1] = np.eye(4, dtype=np.uint8)
    moving = np.ones((2, 10), np.bool_)
    return FirstPass(
        proposals=Proposals(maps=maps, motions=tables, ious=tables, known=None),
        mos_i=TrackedVideo(labels=maps, moving=moving, ious=tables[:, :10], objects=1, prompts=((0, 0),)),
        times_s=[0.0, 0.1],
        checksum=1,
    )


def trials(folder: Path) -> list[Trial]:
    """All classes; what they need lies in `folder`."""
    bundle = folder / "bundle"
    unpack_bundle(PACKED_BUNDLES, "gmos-s", FOLDER, bundle)
    record = folder / "seed.engine.json"
    write_engine_record(record, RECORD)
    done = b'{"format": 1, "modes": ["mask"], "frames": 3, "settings": {"input": "ab"}, "complete": true}'
    save_file({"a.weight": torch.arange(12.0), "b.bias": torch.ones(3, 2)}, folder / "s.safetensors")
    torch.save({"model": {"a.weight": torch.arange(300.0), "b.bias": torch.ones(3, 2)}}, folder / "s.pt")
    graphs = tuple((bundle / f"{name}.onnx").read_bytes() for name in ("sam2_resize", "foreground_map"))
    motion = io.BytesIO()
    np.save(motion, np.ones((3, 20, 1), np.float32))
    first = FirstPassFile(path=folder / "first-pass.npz", settings={}, resume=True)
    first.save(first_pass())
    (folder / "in").mkdir()
    shutil.copytree(bundle, folder / "in/bundle")
    (folder / "in/results/.gmos").mkdir(parents=True)
    os.mkfifo(folder / "in/pipe")
    (folder / "in/loop").symlink_to("loop")
    (folder / "in/good.mp4").write_bytes(video("mpeg4", "mp4"))

    def checkpoint(path: Path) -> object:
        return network_state(path, "GMOS")

    def trial(what: str, weight: int, change: Change, name: str, read: Any, *seeds: bytes) -> Trial:
        return Trial(what=what, seeds=seeds, change=change, name=name, read=read, weight=weight)

    videos = [video("mpeg4", "mp4"), video("libx264", "mp4"), video("libx264", "mov")]
    return [
        trial(
            "bundle.json",
            900,
            mutators.json_field,
            "bundle/bundle.json",
            read_bundle,
            (bundle / "bundle.json").read_bytes(),
        ),
        trial(
            "engine records",
            600,
            mutators.json_field,
            "e.engine.json",
            read_engine_record,
            record.read_bytes(),
        ),
        trial(
            "completion records", 400, mutators.json_field, "results/.gmos/s.gmos.json", read_results, done
        ),
        trial(
            "first passes",
            300,
            npz_member,
            first.path.name,
            lambda path: replace(first, path=path).load((4, 4)),
            first.path.read_bytes(),
        ),
        trial(
            *("samples of calibration", 300, npz_member, "s.npz"),
            lambda path: Sample(path=path, video="v", index=0, kind=()).load(),
            npz(a=np.ones(4), b=np.zeros((2, 3), np.float16)),
        ),
        trial(
            *("npy files", 500, mutators.npy_header, "motion.npy"),
            lambda path: _read_motion_gate(path, 3, Counter()),
            motion.getvalue(),
        ),
        trial(
            "safetensors",
            600,
            mutators.safetensors_header,
            "c.safetensors",
            checkpoint,
            (folder / "s.safetensors").read_bytes(),
        ),
        trial("torch checkpoints", 500, mutators.bits, "c.pt", checkpoint, (folder / "s.pt").read_bytes()),
        trial("ONNX graphs", 400, mutators.wire_format, "g.onnx", read_graph, *graphs),
        trial(
            "PNG and JPEG",
            500,
            png_or_jpeg,
            "00000.png",
            read_picture,
            image("RGB", "PNG"),
            image("P", "PNG"),
            image("L", "PNG"),
            image("RGB", "JPEG"),
        ),
        trial("videos, boxes", 200, mutators.mp4_box, "v.mp4", read_video, *videos),
        trial(
            "videos, bits",
            200,
            mutators.bits,
            "v.mp4",
            read_video,
            *videos,
            video("libx264", "matroska"),
            video("mpeg4", "avi"),
        ),
        trial(
            *("tables of benchmarks", 400, mutators.bits, "t.csv"),
            lambda path: summarise_time_annotation(read_time_annotation(path)),
            TIME_ANNOTATION,
        ),
        trial("boxes of benchmarks", 200, mutators.bits, "b.csv", read_boxes, BOXES),
        trial("arguments of gmos-run", 120, arguments, "words", odd_command, b""),
    ]


def png_or_jpeg(content: bytes, random: Random) -> bytes:
    """Chunks of a PNG, bits of both."""
    by_chunk = content.startswith(b"\x89PNG") and random.random() < 0.7
    return mutators.png_chunk(content, random) if by_chunk else mutators.bits(content, random)
