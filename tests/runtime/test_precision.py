"""The table of precisions, and that nothing spells one of its lists again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

import gmos_deploy
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.evaluation.compare.mask_agreement import PROFILES
from gmos_deploy.runtime.comparison.parity import LIMITS
from gmos_deploy.runtime.precision import (
    ELEMENT_TYPES,
    EXPORTED,
    PRECISIONS,
    QUANTISED,
    TENSOR_DTYPES,
    ElementType,
    PrecisionName,
)

ROOT = Path(gmos_deploy.__file__).parent
HOME = ROOT / "runtime" / "precision.py"
NAMES = frozenset(PRECISIONS)
FLOATS = frozenset(PRECISIONS[name].dtype for name in EXPORTED) | {"HALF", "BF16"}
OUTSIDE = ("tests", "build", ".venv")


def spelled(text: str) -> Iterator[int]:
    """Lines where two or more precisions, or their element types, stand in one list, table or comparison."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Dict):
            parts: list[ast.AST | None] = [*node.keys, *node.values]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            parts = [*node.elts]
        elif isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        else:
            continue
        words = {
            part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)
        }
        if len(words & NAMES) > 1 or len(words & FLOATS) > 1:
            yield parts[0].lineno if parts[0] is not None else 0


def product_and_tools() -> list[Path]:
    """All Python files but tests."""
    files = (file for file in sorted(ROOT.rglob("*.py")) if file.relative_to(ROOT).parts[0] not in OUTSIDE)
    return [file for file in files if file != HOME]


def test_nothing_spells_a_list_of_precisions_again() -> None:
    """Choices, dtype tables and limits are read from the table: a new precision is a row of it."""
    found = {
        f"{file.relative_to(ROOT)}:{line}"
        for file in product_and_tools()
        for line in spelled(file.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize(
    ("text", "is_a_list"),
    [
        ('x = ("fp32", "fp16")', True),
        ('Precision = Literal["int8", "fp8"]', True),
        ('BYTES = {"float16": 2, "bfloat16": 2}', True),
        ('NAMES = {"fp16": "float16"}', False),
        ('precision in {"int8", "fp8", other}', True),
        ('precision == "int8"', False),
    ],
)
def test_lists_are_found(text: str, is_a_list: bool) -> None:
    """Of names, of element types, in annotations and comparisons."""
    assert bool(list(spelled(text))) == is_a_list


def test_the_table_names_each_precision_once() -> None:
    """Rows, the type of their names, limits of networks and of masks, and formats of quantised ones."""
    assert tuple(PRECISIONS) == get_args(PrecisionName) == tuple(LIMITS) == tuple(PROFILES)
    assert tuple(FORMATS) == QUANTISED
    assert set(EXPORTED) | set(QUANTISED) == set(PRECISIONS)


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_precision_fits_its_format_and_its_base(name: str) -> None:
    """It computes in its base around the quantised layers, and its weights are of the format's type."""
    row, form = PRECISIONS[name], FORMATS[name]
    assert row.base in EXPORTED
    assert row.dtype == PRECISIONS[row.base].dtype
    assert ELEMENT_TYPES[row.weight_dtype].onnx == form.dtype.name
    assert row.quantised_to_float == form.floating
    assert row.maker == "calibrate"
    assert row.weight_bytes == 1


@pytest.mark.parametrize("element", ELEMENT_TYPES.values(), ids=lambda element: element.name)
def test_element_types_are_called_as_the_libraries_call_them(element: ElementType) -> None:
    """PyTorch, ONNX and NumPy; a type that NumPy lacks is held in float32."""
    assert getattr(torch, element.name).itemsize == element.bytes
    assert onnx.TensorProto.DataType.Value(element.onnx) == element.onnx_number
    assert np.dtype(element.numpy).itemsize == (element.bytes if element.numpy == element.name else 4)


def test_bundles_hold_the_compute_types() -> None:
    """And whole numbers."""
    assert set(TENSOR_DTYPES) == {"uint8", "int64"} | (FLOATS - {"HALF", "BF16"})
