"""What a plan says about its attention. Excerpts are as TensorRT-RTX 1.7 writes them."""

from __future__ import annotations

import pytest

from gmos_deploy.export.engines.attention import AttentionReport, attention_report

CALL = b'    function={ name=_gemm_mha_v2 fqn=_gemm_mha_v2_0xbf args={ "__mye1" } }\n'


def kernel(first: str, second: str, form: str = "_flash_attention") -> bytes:
    text = f"Kernel_traits_v2{form}<\n  fmha::{first}_traits,\n  fmha::{second}_traits,\n  false, // uses"
    return b"struct _gemm_mha_v2_callback {};" + text.encode()


def report_of(plan: bytes, heads: dict[int, int], copies: int = 1) -> AttentionReport:
    """Of a plan of TensorRT-RTX."""
    return attention_report(plan, heads=heads, copies=copies, named=True)


GOOD = kernel("Ampere_hmma_fp32", "Ampere_hmma_fp32")


def test_fused_attention_is_counted_per_profile() -> None:
    """Each profile has its own list of calls."""
    report = report_of(GOOD + 6 * CALL, {64: 3}, copies=2)
    assert (report.expected, report.fused, report.sums) == (3, 3, ("Ampere_hmma_fp32",))
    assert report.lost is None
    assert report.record() == {"expected": 3, "fused": 3, "sums": ["Ampere_hmma_fp32"], "lost": None}


@pytest.mark.parametrize("form", ["_flash_attention", ""])
def test_bfloat16_sums_in_float32(form: str) -> None:
    """Its kernels know no other way; short sequences have a kernel of their own."""
    plan = kernel("Ampere_hmma_bf16", "Ampere_hmma_bf16", form) + CALL
    assert report_of(plan, {16: 1}).lost is None


def test_sums_in_float16_are_found() -> None:
    """In one of the two products are enough."""
    plan = kernel("Ampere_hmma_fp16", "Ampere_hmma_fp32") + CALL
    found = report_of(plan, {64: 1}).lost
    assert found == "attention sums in float16, which is inaccurate over long sequences"


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (b"__myl_MaxrSubExpSumDiv", "none of its 2 attentions is fused: it is slow and needs much memory"),
        (GOOD + CALL, "1 of its 2 attentions are not fused: it is slow"),
    ],
)
def test_lost_fusion_is_found(plan: bytes, expected: str) -> None:
    """All of it, or some."""
    assert report_of(plan, {64: 2}).lost == expected


def test_heads_without_a_kernel_are_not_missed() -> None:
    """TensorRT fuses none of 8 channels; float32 attention is never fused and not counted."""
    assert report_of(b"", {8: 4}).lost is None
    assert report_of(b"", {}).lost is None


def test_a_plan_that_lists_no_calls_is_judged_by_its_mark() -> None:
    """TensorRT's plans hold kernels and no such list."""
    report = report_of(b"..._gemm_mha_v2...", {64: 2})
    assert report.fused is None
    assert report.lost is None


def test_a_plan_that_names_no_kernels_says_nothing_about_them() -> None:
    """TensorRT 10's may not: no warning then, and no failed check on the device; sums in float16 are still told."""
    report = attention_report(b"...", heads={64: 2}, copies=1, named=False)
    assert (report.fused, report.lost) == (None, None)
    wrong = kernel("Ampere_hmma_fp16", "Ampere_hmma_fp16")
    assert "sums in float16" in str(attention_report(wrong, heads={64: 1}, copies=1, named=False).lost)
