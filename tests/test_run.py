"""`gmos-run` as a user meets it: real files, the tiny reference, messages and exit status."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gmos_deploy.cli import guarded
from gmos_deploy.commands.run import run_command
from gmos_deploy.evaluation.benchmarks.datasets import DATASET_NAMES
from gmos_deploy.fleet.statuses import SequenceSummary
from gmos_deploy.fleet.summary import Summary

FRAMES = 6


@pytest.fixture
def clip(colour_video: Callable[..., Path]) -> Path:
    """A directory of frames in which one box moves."""
    return colour_video("clip", [[(1, 4 + 4 * index, 8, 16, 24)] for index in range(FRAMES)])


@pytest.fixture
def gmos_run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit status, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        status = guarded(run_command, "gmos-run", [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_gmos_from_frames_to_files(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """Palette PNGs and overlays for both results, a summary, and a warning that weights are stand-ins."""
    status, out, err = gmos_run(
        clip, "--stride", 1, "--preset", "tiny", "--save_dir", tmp_path / "out", "--save_mode", "mask+mp4"
    )
    assert status == 0, err
    assert "untrained stand-in weights" in err
    assert f"clip: {FRAMES} frames" in out
    for result in ("mos-i", "mos"):
        frames = sorted((tmp_path / f"out/{result}_frame/clip").glob("*.png"))
        assert [frame.name for frame in frames] == [f"{i:05d}.png" for i in range(FRAMES)]
        with Image.open(frames[0]) as image:
            assert (image.mode, image.size) == ("P", (96, 64))
        assert (tmp_path / f"out/{result}_mp4/clip.mp4").stat().st_size > 0
    assert str(tmp_path / "out/mos_frame/clip") in out


def test_gmos_s_defaults_to_probabilities_and_prints_json(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """The summary is one JSON document on stdout."""
    status, out, err = gmos_run(
        "--input-rgb", clip, "--fps", 8, "--variant", "gmos-s", "--preset", "tiny",
        "--save-dir", tmp_path / "out", "--json", "--batch-size", 2, "--precision", "bf16",
    )  # fmt: skip
    assert status == 0, err
    summary = json.loads(out)
    assert summary["variant"] == "gmos-s"
    sequence = summary["sequences"][0]
    assert (sequence["frames"], sequence["stride"], sequence["fps"]) == (FRAMES, 1, 8.0)
    assert "bf16" in summary["backend"]
    (of,) = summary["made_from"]["clips"]
    assert (of["name"], of["stride"], of["fps"], len(of["sha256"])) == ("clip", 1, 8.0, 64)
    record = json.loads((tmp_path / "out/.gmos/clip.gmos-s.json").read_text())
    assert record["made_from"] == summary["made_from"]
    with Image.open(tmp_path / "out/prob/clip/00000.png") as image:
        assert image.mode == "L"


def test_overlays_come_without_being_asked_for(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """Beside the published results, and the last line says where; --save_mode and the published spelling decide."""
    base = ("--stride", 1, "--preset", "tiny", "--variant", "gmos-s", "--save_dir")
    written = {}
    for name, arguments in {
        "plain": (clip,),
        "asked": (clip, "--save_mode", "prob"),
        "published": ("--input_rgb", clip),
        "json": (clip, "--json"),
    }.items():
        status, out, err = gmos_run(*arguments, *base, tmp_path / name)
        assert status == 0, err
        written[name] = sorted(path.name for path in (tmp_path / name).iterdir() if path.name[0] != ".")
        if name == "json":
            assert str(tmp_path / "json/mp4/clip.mp4") in json.loads(out)["sequences"][0]["outputs"]
        else:
            last = f"look at {tmp_path / 'plain/mp4/clip.mp4'}"
            assert (out.splitlines()[-1] == last) == (name == "plain")
    assert written == {
        "plain": ["mp4", "prob"],
        "asked": ["prob"],
        "published": ["prob"],
        "json": ["mp4", "prob"],
    }


def test_overlays_of_several_videos_have_a_folder(tmp_path: Path) -> None:
    """One line all the same."""
    files = [tmp_path / f"mos-i_mp4/{name}.mp4" for name in "ab"]
    text = io.StringIO()
    with Summary(out=text) as summary:
        for path in files:
            summary.add(SequenceSummary(name=path.stem, stride=1, fps=1.0, outputs=[path]))
    assert text.getvalue().splitlines()[-1] == f"look at {tmp_path / 'mos-i_mp4'}"


def test_published_spelling_takes_several_inputs(
    gmos_run: Callable[..., tuple[int, str, str]], colour_video: Callable[..., Path], tmp_path: Path
) -> None:
    """`--input_rgb A B` runs both, in order; non-ASCII names work."""
    first, second = (colour_video(name, [[(1, 4, 8, 16, 24)]] * 2) for name in ("zweite-größe", "a"))
    status, out, err = gmos_run(
        "--input_rgb", first, second, "--stride", 2, "--preset", "tiny", "--variant", "gmos-s",
        "--save_dir", tmp_path / "out",
    )  # fmt: skip
    assert status == 0, err
    assert out.index("zweite-größe: 2 frames") < out.index("a: 2 frames")
    assert (tmp_path / "out/prob/zweite-größe/00001.png").is_file()


def test_another_video_of_the_same_name_is_not_finished_before(
    gmos_run: Callable[..., tuple[int, str, str]], colour_video: Callable[..., Path], tmp_path: Path
) -> None:
    """Two cameras that both write `clip`."""
    for camera in (1, 2):
        video = colour_video("clip", [[(1, 4, 8 * camera, 16, 24)]] * 2)
        video.rename(tmp_path / f"camera{camera}")
        (tmp_path / str(camera)).mkdir()
        (tmp_path / f"camera{camera}").rename(tmp_path / str(camera) / video.name)
    base = (
        "--stride",
        1,
        "--preset",
        "tiny",
        "--variant",
        "gmos-s",
        "--save_dir",
        tmp_path / "out",
        "--resume",
    )
    assert gmos_run(tmp_path / "1" / video.name, *base)[0] == 0
    assert gmos_run(tmp_path / "1" / video.name, *base)[0] == 0
    status, out, err = gmos_run(tmp_path / "2" / video.name, *base)
    assert (status, out) == (2, "")
    assert "has results of clip made from another input; expected the same video" in err


def test_existing_results_are_kept_resumed_or_replaced(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """Without a word they are refused; --resume skips them; --overwrite makes them again."""
    base = (clip, "--stride", 1, "--preset", "tiny", "--variant", "gmos-s", "--save_dir", tmp_path / "out")
    assert gmos_run(*base)[0] == 0
    frame = tmp_path / "out/prob/clip/00000.png"
    before = frame.stat().st_mtime_ns
    status, out, err = gmos_run(*base)
    assert (status, out) == (2, "")
    assert "exists already" in err
    assert err.count("\n") == 1
    status, out, _ = gmos_run(*base, "--resume")
    assert (status, frame.stat().st_mtime_ns) == (0, before)
    assert "clip: finished before, skipped (stride 1, 24 fps)" in out
    status, _, err = gmos_run(*base, "--resume", "--batch_size", 3, "--stride", 2)
    assert status == 2
    assert "stride was 1 and is 2" in err
    assert gmos_run(*base, "--overwrite")[0] == 0
    assert frame.stat().st_mtime_ns > before


BAD_CALLS: list[tuple[list[str], str]] = [
    ([], "no input was given"),
    (["missing.mp4"], "missing.mp4 does not exist"),
    (
        ["ftp://example.com/a.mp4"],
        "ftp://example.com/a.mp4: addresses of ftp:// are not read; expected one of",
    ),
    (["rtsp://camera/1", "clip"], "2 inputs were given; expected one stream, or one file with --live"),
    (
        ["clip", "--stride", "1", "--drop", "oldest"],
        "--drop oldest: goes with a stream, and the inputs are files",
    ),
    (
        ["--live", "clip", "--stride", "1", "--max_conditioning", "8"],
        "--max_conditioning 8 bounds memories of MOS",
    ),
    (
        ["--live", "clip", "--stride", "1", "--save_mode", "mos"],
        "--save_mode mos: MOS goes backwards through the",
    ),
    (["--live", "clip", "--stride", "1", "--save_mode", "coco"], "--save_mode coco: needs the whole video"),
    (
        ["--live", "clip", "--stride", "1", "--thresholds", "stage2_iou=0.5"],
        "--thresholds stage2_iou: is one of MOS",
    ),
    (
        ["--live", "clip", "--stride", "1", "--tracks", "-", "--json"],
        "--tracks - and --json both write to standard",
    ),
    (["--live", "clip", "--stride", "1", "--resume"], "--resume goes with files, and the input is a stream"),
    (
        ["--live", "clip", "--stride", "1", "--timeout", "0"],
        "--timeout 0: expected a positive number of seconds",
    ),
    (["--live", "clip"], "directory of frames, which has no frame rate; expected --fps"),
    (["clip"], "directory of frames, which has no frame rate; expected --fps"),
    (["clip", "--stride", "0"], "--stride 0"),
    (["clip", "--fps", "nan"], "--fps nan"),
    (["clip", "--stride", "x"], "'x' is not a valid integer"),
    (["clip", "--stride", "1", "--save_mode", "prob"], "gmos has no mode 'prob'"),
    (
        ["clip", "--stride", "1", "--preset", "huge"],
        "preset 'huge' does not exist: expected one of published",
    ),
    (["clip", "--stride", "1", "--device", "tpu"], "--device tpu: expected cpu, cuda, cuda:N or auto"),
    (["clip", "--stride", "1", "--device", "cuda"], "--device cuda: this PyTorch"),
    (["clip", "--stride", "1", "--device", "cpu", "--precision", "fp16"], "--precision fp16: not on a CPU"),
    (["clip", "--stride", "1", "--resume", "--overwrite"], "--resume and --overwrite were both given"),
    (["clip", "--stride", "1", "--thresholds", "speed=1"], "--thresholds speed=1: 'speed' is no threshold"),
    (
        ["clip", "--stride", "1", "--thresholds", "iou=much"],
        "iou is 'much'; expected a number, as in iou=0.7",
    ),
    (["clip", "--stride", "1", "--thresholds", "iou=0.1,iou=0.2"], "'iou' is given twice"),
    (
        ["clip", "--stride", "1", "--thresholds", "iou=7"],
        "threshold iou is 7.0; expected a number from 0 to 1",
    ),
    (["clip", "--stride", "1", "--offload_cpu", "--device_budget", "5"], "contradict each other"),
    (
        ["clip", "--stride", "1", "--spill_dir", "nowhere"],
        "--spill_dir nowhere: expected an existing directory",
    ),
    (["clip", "--stride", "1", "--save_dir", "clip/00000.png/x"], "00000.png"),
    (
        ["clip", "--stride", "1", "--gmos_ckpt", "a", "--gmos_s_ckpt", "b"],
        "both --gmos_ckpt and --gmos_s_ckpt",
    ),
    (["clip", "--stride", "1", "--pi3_ckpt", "a.safetensors"], "needs 3 checkpoints; not given: --sam2_ckpt"),
    (
        [
            "clip",
            "--stride",
            "1",
            "--pi3_ckpt",
            "a",
            "--sam2_ckpt",
            "b",
            "--gmos_ckpt",
            "c",
            "--preset",
            "tiny",
        ],
        "a cannot be read",
    ),
    (["clip", "--colour"], "No such option"),
    (["clip", "--stride", "1", "--backend", "onnxruntime"], "runs a bundle; give --bundle DIR"),
    (["clip", "--stride", "1", "--backend", "torch", "--bundle", "clip"], "--backend torch runs checkpoints"),
    (["clip", "--stride", "1", "--bundle", "clip"], "the networks come from --bundle clip"),
    (
        ["clip", "--stride", "1", "--bundle", "clip", "--gmos_ckpt", "x"],
        "--gmos_ckpt x: the networks come from",
    ),
    (["clip", "--stride", "1", "--root", "x"], "--root x: goes with --dataset"),
    (["clip", "--dataset", "davis17", "--root", "x"], "--dataset davis17 and clip were both given"),
    (["--dataset", "davis17"], "--dataset davis17 needs --root"),
    (["--dataset", "davis99", "--root", "clip"], "dataset 'davis99': expected one of"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS, ids=[message for _, message in BAD_CALLS])
def test_bad_calls_are_one_line_and_status_2(
    gmos_run: Callable[..., tuple[int, str, str]],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    """The line names what was given; nothing is written."""
    monkeypatch.chdir(tmp_path)
    defaults = [] if "--preset" in arguments or "ckpt" in " ".join(arguments) else ["--preset", "tiny"]
    if "cuda" in arguments and _has_cuda():
        pytest.skip("there is a CUDA device")
    status, out, err = gmos_run(*arguments, *defaults)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1, err
    assert err.startswith("gmos-run: ")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_without_checkpoints_the_needed_files_are_named(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """Each flag, what it takes and where that is published; GMOS-S asks for its own."""
    published = (clip, "--stride", 1, "--save_dir", tmp_path / "out", "--preset", "published")
    status, _, err = gmos_run(*published)
    assert status == 2
    for part in ("--pi3_ckpt (", "huggingface.co/yyfz233/Pi3", "sam2.1_hiera_large.pt", "--gmos_ckpt ("):
        assert part in err
    assert "--gmos_s_ckpt (" in gmos_run(*published, "--variant", "gmos-s")[2]


def test_a_full_disk_is_one_line(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's refusal in the middle of writing becomes a message; nothing is filed."""
    import errno

    from gmos_deploy.runtime.results import png_writer

    def full(*_: Any, **__: Any) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(png_writer, "encode_png", full)
    status, _, err = gmos_run(
        clip, "--stride", 1, "--preset", "tiny", "--variant", "gmos-s", "--save_dir", tmp_path / "out"
    )
    assert status == 2
    assert "the disk is full" in err.splitlines()[-1]
    assert not (tmp_path / "out/prob").exists()


RUN_INTERRUPTIBLY = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from gmos_deploy.entry import run; run()"
)
"""gmos-run in a process that SIGINT reaches even where the tests themselves run in the background, which ignores it."""


def test_ctrl_c_stops_with_one_line_and_nothing_half_written(clip: Path, tmp_path: Path) -> None:
    """SIGINT to the real process, while it works."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [
            sys.executable, "-c", RUN_INTERRUPTIBLY, str(clip),
            "--stride", "1", "--preset", "tiny", "--save_dir", str(out),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "loaded in" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "gmos-run: interrupted; what was finished is kept"
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_what_interrupts_the_writing_leaves_the_first_pass(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--resume` goes on from there, and takes it away when the results are filed."""
    base = (clip, "--stride", 1, "--preset", "tiny", "--save_dir", tmp_path / "out")

    def interrupted(answers: Any, *_: Any, **__: Any) -> None:
        next(answers)
        answers.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gmos_deploy.fleet.sequence_runner.file_results", interrupted)
        status, _, err = gmos_run(*base)
    assert status == 130
    assert "clip: the first pass is kept; --resume goes on from there" in err
    (kept,) = (tmp_path / "out/.gmos").glob("*.npz")
    status, out, err = gmos_run(*base, "--resume", "--max_conditioning", 2)
    assert status == 0, err
    assert "proposals and MOS-I are those of the run that was resumed" in out
    assert (tmp_path / "out/mos_frame/clip/00005.png").is_file()
    assert not kept.exists()


def test_mos_i_only_and_the_second_pass_later(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """The same MOS-I without MOS; `--resume` without it does the second pass alone, and with it has nothing to do."""
    base = (clip, "--stride", 1, "--preset", "tiny", "--save_mode", "mask", "--save_dir")
    assert gmos_run(*base, tmp_path / "whole")[0] == 0
    status, out, err = gmos_run(*base, tmp_path / "out", "--mos_i_only")
    assert status == 0, err
    assert ", no MOS, motion on" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".gmos", "mos-i_frame"]

    def masks(place: str, result: str) -> list[bytes]:
        return [path.read_bytes() for path in sorted((tmp_path / place / f"{result}_frame/clip").iterdir())]

    assert masks("out", "mos-i") == masks("whole", "mos-i")
    record = json.loads((tmp_path / "out/.gmos/clip.gmos.json").read_text())
    assert record["settings"]["mos_i_only"] is True
    assert "finished before, skipped" in gmos_run(*base, tmp_path / "out", "--mos_i_only", "--resume")[1]
    status, out, err = gmos_run(*base, tmp_path / "out", "--resume")
    assert status == 0, err
    assert "proposals and MOS-I are those of the run that was resumed" in out
    for result in ("mos-i", "mos"):
        assert masks("out", result) == masks("whole", result)
    assert [path.name for path in (tmp_path / "out/.gmos").iterdir()] == ["clip.gmos.json"]
    assert "finished before, skipped" in gmos_run(*base, tmp_path / "out", "--mos_i_only", "--resume")[1]
    status, _, err = gmos_run(
        *base, tmp_path / "out", "--mos_i_only", "--resume", "--save_mode", "mask+tracks"
    )
    assert status == 2
    assert "has results of clip with MOS, and --mos_i_only in other modes would replace them" in err
    assert gmos_run(*base, tmp_path / "out", "--mos_i_only", "--overwrite")[0] == 0
    assert not (tmp_path / "out/mos_frame/clip").exists()


def test_levers_on_the_command_line(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """They are in the record and the summary; results of others are not resumed; wrong ones end the run."""
    base = (clip, "--stride", 1, "--preset", "tiny", "--variant", "gmos-s", "--save_dir", tmp_path / "out")
    status, out, err = gmos_run(*base, "--geometry-every", 2, "--geometry_change", 0.5)
    assert status == 0, err
    assert "frames 4 decoded, of 6" in out
    settings = json.loads((tmp_path / "out/.gmos/clip.gmos-s.json").read_text())["settings"]
    assert (settings["geometry_every"], settings["geometry_change"]) == (2, 0.5)
    status, _, err = gmos_run(*base, "--resume")
    assert status == 2
    assert "geometry_every was 2 and is None" in err
    for wrong, message in (
        (("--propose_every", 2), "--propose_every is for GMOS"),
        (("--mos_i_only",), "--mos_i_only is for GMOS"),
        (("--geometry_every", 0), "--geometry_every 0: expected"),
    ):
        status, _, err = gmos_run(*base, *wrong, "--overwrite")
        assert status == 2
        assert message in err


def test_real_checkpoints_run_and_decide_the_result(
    gmos_run: Callable[..., tuple[int, str, str]], clip: Path, tmp_path: Path
) -> None:
    """Checkpoints saved in the published layouts load by their flags and give the preset's masks."""
    import torch
    from safetensors.torch import save_file

    from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
    from gmos_deploy.gmos_ref.presets import TINY

    networks = stand_in_networks(TINY, "gmos")
    pi3, sam2, gmos = (tmp_path / name for name in ("model.safetensors", "sam2.pt", "gmos.pth"))
    save_file(networks.pi3.state_dict(), pi3)
    torch.save({"model": networks.sam2.state_dict()}, sam2)
    state = {f"module.{key}": value for key, value in networks.head.state_dict().items()}
    torch.save({"model_state_dict": state}, gmos)
    base = (clip, "--stride", 1, "--preset", "tiny", "--save_dir")
    status, _, err = gmos_run(
        *base, tmp_path / "loaded", "--pi3_ckpt", pi3, "--sam2_ckpt", sam2, "--gmos_ckpt", gmos
    )
    assert status == 0, err
    assert "untrained" not in err
    assert gmos_run(*base, tmp_path / "preset")[0] == 0
    for frame in (tmp_path / "loaded/mos_frame/clip").glob("*.png"):
        same = tmp_path / "preset/mos_frame/clip" / frame.name
        assert np.array_equal(np.asarray(Image.open(frame)), np.asarray(Image.open(same)))
    status, _, err = gmos_run(
        *base, tmp_path / "swapped", "--pi3_ckpt", sam2, "--sam2_ckpt", sam2, "--gmos_ckpt", gmos
    )
    assert status == 2
    assert "--sam2_ckpt" in err.splitlines()[-1]


@pytest.fixture
def davis17_im(colour_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A DAVIS folder of two test sequences, in DAVIS' own layout, with its motion annotation."""
    root = tmp_path / "DAVIS"
    for folder in ("JPEGImages", "Annotations_unsupervised"):
        (root / folder / "480p").mkdir(parents=True)
    rows = ["seq_name,time_anno,ann_frames,vid_frames,dataset,split"]
    for name in ("one", "two"):
        frames = colour_video(name, [[(1, 4 + 4 * i, 8, 16, 24)] for i in range(3)])
        for target in (root / "JPEGImages/480p" / name, root / "Annotations_unsupervised/480p" / name):
            target.mkdir()
        for index, frame in enumerate(sorted(frames.iterdir())):
            image = Image.open(frame)
            image.save(root / "JPEGImages/480p" / name / f"{index:05d}.jpg", quality=95)
            labels = (np.asarray(image)[..., 0] == 220).astype(np.uint8)
            mask = Image.fromarray(labels).convert("P")
            mask.putpalette([0, 0, 0, 128, 0, 0])
            mask.save(root / "Annotations_unsupervised/480p" / name / f"{index:05d}.png")
        rows.append(f"{name},\"{{'1': [[0, 2]]}}\",3,3,davis,test")
    (root / "time_annotation.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_a_benchmark_split_is_run_and_its_output_evaluated(
    gmos_run: Callable[..., tuple[int, str, str]],
    davis17_im: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`gmos-run --dataset` fills a tree that `gmos-eval` reads as it is; a second run has nothing to do."""
    from gmos_deploy.commands.evaluate import evaluate_command

    base = (
        "--dataset",
        "davis17-im",
        "--root",
        davis17_im,
        "--preset",
        "tiny",
        "--save_dir",
        tmp_path / "out",
    )
    status, out, err = gmos_run(*base)
    assert status == 0, err
    assert "one: 3 frames" in out
    assert "two: 3 frames" in out
    assert "skipped" in gmos_run(*base, "--resume")[1]
    evaluation = [
        "mos-i", "--dataset", "davis17-im", "--res_dir", str(tmp_path / "out"),
        "--anno_dir", str(davis17_im / "Annotations_unsupervised/480p"),
        "--time_anno_csv", str(davis17_im / "time_annotation.csv"), "--json", str(tmp_path / "mos_i.json"),
    ]  # fmt: skip
    assert guarded(evaluate_command, "gmos-eval", evaluation) == 0, capsys.readouterr().err
    assert "J_mov" in capsys.readouterr().out
    result = json.loads((tmp_path / "mos_i.json").read_text())
    assert {clip["dataset"] for clip in result["made_from"]["clips"]} == {"davis17-im"}
    assert "run_for_another_dataset" not in {note["code"] for note in result["notes"]}
    # The same results, scored as what they were not run for.
    other = ["davis", "--res_dir", str(tmp_path / "out"), *evaluation[5:7]]
    assert guarded(evaluate_command, "gmos-eval", other) == 0
    assert "for another dataset than they are scored as: 2" in capsys.readouterr().out


def test_sequences_of_a_split_are_named_in_a_list(
    gmos_run: Callable[..., tuple[int, str, str]], davis17_im: Path, tmp_path: Path
) -> None:
    """As davis17-m needs; every dataset is in the help, and the messages name options that the command has."""
    listed = tmp_path / "list.txt"
    listed.write_text("one\n")
    base = (
        "--dataset",
        "davis17-m",
        "--root",
        davis17_im,
        "--preset",
        "tiny",
        "--save_dir",
        tmp_path / "out",
    )
    status, _, err = gmos_run(*base)
    assert (status, "give the file with --sequences" in err) == (2, True)
    status, out, err = gmos_run(*base, "--sequences", listed)
    assert status == 0, err
    assert "one: 3 frames" in out
    assert "two" not in out
    text = " ".join(gmos_run("--help")[1].split())
    assert all(name in text for name in (*DATASET_NAMES, "--sequences"))
    status, _, err = gmos_run("clip", "--sequences", listed)
    assert (status, "goes with --dataset" in err) == (2, True)


def test_missing_frames_of_a_split_are_listed_before_anything_runs(
    gmos_run: Callable[..., tuple[int, str, str]], davis17_im: Path, tmp_path: Path
) -> None:
    """One line per missing folder, then the error."""
    for frame in (davis17_im / "JPEGImages/480p/two").iterdir():
        frame.unlink()
    status, _, err = gmos_run("--dataset", "davis17-im", "--root", davis17_im, "--preset", "tiny")
    assert status == 2
    assert "1 missing in 1 of 2 sequences (two)" in err
    assert "name those that are whole with --sequences" in err
    assert not (tmp_path / "gmos-output").exists()
