"""What gmos-parity reports, as values: result.json, and every observation as a JSON line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from ...runtime.files.made_from import KEY, MadeFrom
from ...runtime.precision import PrecisionName
from ..report.files import RESULT_FILE, plain, read_json, report_directory
from .first_divergence import FirstDivergence
from .mask_agreement import PROFILES, MaskLimits, SequenceAgreement
from .network_parity import OutputParity
from .stage_agreement import Birth, StageAgreement, births

SCHEMA = "gmos-parity/1"
"""Name and version of the layout of result.json; the number rises when a reader of the old one would break."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared and what it is held to.

    `kind` is the command, `a` and `b` the sides as given; `videos` are for pictures of their frames.
    """

    kind: str
    a: str
    b: str
    profile: PrecisionName
    limits: MaskLimits
    report: Path | None
    worst_frames: int
    wide: bool
    videos: tuple[Path, ...]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls,
        kind: str,
        a: str,
        b: str,
        videos: Sequence[Path | str],
        options: Mapping[str, Any],
        *,
        own: PrecisionName = "fp32",
    ) -> Comparison:
        """From the options of gmos-parity; without `limits` among them both are held to those of `own`.

        Raises:
            GmosError: no report can be written where one is wanted.
        """
        report_directory(options["report"])
        profile = cast(PrecisionName, options["limits"] or own)
        asked = {"frame_iou": options["min_frame_iou"], "mean_iou": options["min_mean_iou"]}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        return cls(
            kind=kind,
            a=a,
            b=b,
            profile=profile,
            limits=replace(PROFILES[profile], **given, ids=not options["any_ids"]),
            report=options["report"],
            worst_frames=options["worst_frames"],
            wide=options["wide"],
            videos=tuple(Path(video) for video in videos),
        )


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What was compared of two sides."""

    asked: Comparison
    found: tuple[SequenceAgreement, ...]
    stages: tuple[StageAgreement, ...]
    made_from: MadeFrom
    environment: Mapping[str, Any]
    seconds: float
    failed: Mapping[str, str] = field(default_factory=dict)
    """Videos that could not be run, and why."""

    @cached_property
    def failures(self) -> list[str]:
        """What is beyond the limits, in words."""
        return [line for agreement in self.found for line in agreement.failures(self.asked.limits)]

    @cached_property
    def births(self) -> tuple[Birth, ...]:
        """Where the difference of each video is born; empty if B was not teacher-forced."""
        return births(self.stages)


@dataclass(frozen=True, kw_only=True)
class NetworksReport:
    """The comparison of two sides' networks."""

    a: str
    b: str
    video: Path
    frames: int
    profile: PrecisionName
    found: tuple[OutputParity, ...]
    made_from: MadeFrom
    environment: Mapping[str, Any]
    seconds: float
    first_layer: FirstDivergence | None = None

    @cached_property
    def failures(self) -> list[str]:
        """What is beyond the limits, in words."""
        return [line for parity in self.found if (line := parity.excess(self.profile)) is not None]


def result_json(report: ParityReport) -> dict[str, Any]:
    """The content of result.json, documented in docs/parity.md."""
    asked = report.asked
    return {
        "schema": SCHEMA,
        "kind": asked.kind,
        "passed": not report.failures,
        "profile": asked.profile,
        "limits": asked.limits,
        "failures": report.failures,
        "failed_videos": report.failed,
        "a": asked.a,
        "b": asked.b,
        "seconds": round(report.seconds, 3),
        "results": [_result(found) for found in report.found],
        "stages": [
            {**plain(stage, omit=("numbers", "words", "differs", "observations")), **stage.numbers}
            for stage in report.stages
        ],
        "born_in": report.births,
        KEY: report.made_from,
        "environment": report.environment,
    }


def _result(found: SequenceAgreement) -> dict[str, Any]:
    worst = found.worst_frame
    return {
        "result": found.result,
        "sequence": found.sequence,
        "frames": len(found.frames),
        "mean_iou": found.mean_iou,
        "mean_boundary_f": found.mean_boundary_f,
        "worst_frame": {"name": worst.name, "iou": worst.iou, "weakest": worst.weakest},
        "different_pixels": found.different,
        "different_share": found.different_share,
        "matching": found.matching,
        "only_a": found.only_a,
        "only_b": found.only_b,
    }


def observations(report: ParityReport) -> Iterator[Mapping[str, Any]]:
    """The lines of observations.jsonl: one per frame of a result, then those of the stages."""
    for found in report.found:
        for frame in found.frames:
            yield {
                "result": found.result,
                "sequence": found.sequence,
                "frame": frame.name,
                "iou": frame.iou,
                "boundary_f": frame.boundary_f,
                "pixels": frame.pixels,
                "different": frame.different,
                "objects": frame.objects,
            }
    for stage in report.stages:
        yield from stage.observations


def networks_json(report: NetworksReport) -> dict[str, Any]:
    """The same of a comparison of networks, whose observations are the outputs."""
    return {
        "schema": SCHEMA,
        "kind": "networks",
        "passed": not report.failures,
        "profile": report.profile,
        "failures": report.failures,
        "a": report.a,
        "b": report.b,
        "video": str(report.video),
        "frames": report.frames,
        "seconds": round(report.seconds, 3),
        "outputs": [
            {**plain(parity.worst, omit=("target", "lengths", "output")), **plain(parity, omit=("worst",))}
            for parity in report.found
        ],
        "first_layer": report.first_layer,
        KEY: report.made_from,
        "environment": report.environment,
    }


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json of this version.

    Raises:
        GmosError: it cannot be read, is no JSON, or has another schema.
    """
    return read_json(path, schema=SCHEMA, what=f"{RESULT_FILE} of gmos-parity")
