"""A calibration that was interrupted goes on from what it had worked out, and ends with the same bundle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gmos_deploy.calibration.calibrate import calibrate
from gmos_deploy.calibration.config import CalibrationConfig
from gmos_deploy.calibration.quantiser.formats import FORMATS
from gmos_deploy.calibration.quantiser.layer_choice import ActivationChoice, LayerChooser, StoredLayer
from gmos_deploy.calibration.quantiser.linear_layers import Activation, LinearLayer
from gmos_deploy.calibration.search import target_masks
from gmos_deploy.calibration.search.finished_work import FinishedWork
from gmos_deploy.calibration.search.network_trial import NetworkTrial
from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.bundle.manifest import Bundle
from gmos_deploy.runtime.frame_result import CompactMap

MakeConfig = Callable[..., CalibrationConfig]

LAYER = LinearLayer(node="fc/MatMul", module="fc", activation="x", shape=(3, 2))
ACTIVATION = Activation(name="x", layers=(LAYER,), norm=None)
WEIGHT = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)


def choice(**fields: Any) -> ActivationChoice:
    """Of an activation with one layer, (3, 2) in int8; keywords replace its fields."""
    layer = StoredLayer(
        form=FORMATS["int8"], weight=WEIGHT, scale=np.ones(2, np.float16), bias_correction=None
    )
    given: dict[str, Any] = {
        "activation": ACTIVATION,
        "threshold": 1 / 3,
        "method": "99.99 %",
        "factors": np.array([1, 2, 0.5], np.float32),
        "alpha": 0.35,
        "mean_shift": None,
        "quantised": {LAYER.node: layer},
        "weight_only": {},
        "error": 0.01,
    }
    return ActivationChoice(**(given | fields))


def begun(root: Path, **settings: Any) -> FinishedWork:
    work = FinishedWork(root)
    work.check()
    work.begin(settings)
    return work


def assert_same_layer(found: StoredLayer, wanted: StoredLayer) -> None:
    assert found.form == wanted.form
    assert found.weight.dtype == wanted.weight.dtype
    assert found.weight.tobytes() == wanted.weight.tobytes()
    np.testing.assert_array_equal(found.scale, wanted.scale)
    assert (found.bias_correction is None) == (wanted.bias_correction is None)
    if wanted.bias_correction is not None and found.bias_correction is not None:
        np.testing.assert_array_equal(found.bias_correction, wanted.bias_correction)


def test_choices_come_back_as_they_were(tmp_path: Path) -> None:
    """Both formats, with and without what a choice may lack; of another activation or network there is none."""
    eight = WEIGHT.astype(ml_dtypes.float8_e4m3fn)
    floating = StoredLayer(
        form=FORMATS["fp8"],
        weight=eight,
        scale=np.float16(0.5).reshape(()),
        bias_correction=np.ones(2, np.float32),
    )
    wanted = choice(
        mean_shift=np.array([1, 2, 3], np.float16), factors=None, weight_only={LAYER.node: floating}
    )
    begun(tmp_path / "work").keep(wanted, "dino", "x")
    work = begun(tmp_path / "work")
    found = work.known(ActivationChoice, "dino", "x")
    assert found is not None
    assert (found.activation, found.threshold, found.method) == (ACTIVATION, 1 / 3, "99.99 %")
    assert (found.alpha, found.error, found.factors) == (0.35, 0.01, None)
    np.testing.assert_array_equal(found.mean_shift, wanted.mean_shift)
    assert_same_layer(found.quantised[LAYER.node], wanted.quantised[LAYER.node])
    assert_same_layer(found.weight_only[LAYER.node], floating)
    assert work.known(ActivationChoice, "sam2_encoder", "x") is None
    assert work.known(ActivationChoice, "dino", "y") is None


def test_label_maps_come_back_as_they_were(tmp_path: Path) -> None:
    """By result and frame; empty ones too."""
    shown = np.arange(20, dtype=np.uint8).reshape(4, 5)
    maps = {"mos": [CompactMap.of(shown), CompactMap.of(0 * shown)], "mos-i": [CompactMap(None, (4, 5))]}
    work = begun(tmp_path / "work")
    assert work.once(dict[str, list[CompactMap]], lambda: maps, "clip") is maps
    found = work.once(dict[str, list[CompactMap]], dict, "clip")
    assert {name: len(kept) for name, kept in found.items()} == {"mos": 2, "mos-i": 1}
    for name, wanted in maps.items():
        np.testing.assert_array_equal(
            [kept.unpack() for kept in found[name]], [one.unpack() for one in wanted]
        )
    assert work.known(dict[str, list[CompactMap]], "another") is None


def test_work_is_of_its_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the same ones it stays, and this is said; with others it is begun anew."""
    caplog.set_level(logging.INFO)
    begun(tmp_path / "work", seed=0).keep({"x": [1]}, "key", ("a", 2))
    assert not caplog.messages
    (tmp_path / "work" / "trial-of_a_killed_run").mkdir()
    assert begun(tmp_path / "work", seed=0).known(dict[str, list[int]], "key", ("a", 2)) == {"x": [1]}
    assert not list((tmp_path / "work").glob("trial-*"))
    assert "goes on with what an earlier run left" in caplog.text
    work = begun(tmp_path / "work", seed=1)
    assert "of other settings" in caplog.text
    assert work.known(dict[str, list[int]], "key", ("a", 2)) is None
    work.remove()
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"[]"])
def test_damaged_work_is_done_again(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    """It is as good as none."""
    work = begun(tmp_path / "work")
    work.keep(choice(), "dino", "x")
    work.keep({"x": 1}, "key")
    for path in (tmp_path / "work").iterdir():
        path.write_bytes(spoil(path.read_bytes()))
    assert work.known(ActivationChoice, "dino", "x") is None
    assert work.known(dict[str, int], "key") is None
    assert begun(tmp_path / "work").known(ActivationChoice, "dino", "x") is None


def test_a_place_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    """A file of somebody else's, or a file in the directory's place."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("x")
    with pytest.raises(GmosError, match=r"a holds thesis\.tex, and unfinished work goes there"):
        FinishedWork(tmp_path / "a").check()
    with pytest.raises(GmosError, match=r"thesis\.tex is a file"):
        FinishedWork(tmp_path / "a" / "thesis.tex").check()


def files(bundle: Bundle) -> dict[str, str]:
    """Hashes of the files of a bundle by name."""
    return {name: bundle.files.sha256(name) for name in bundle.files}


class Interrupted:
    """Stands for a method that is interrupted in its call number `at`, counted from 1."""

    def __init__(self, at: int) -> None:
        self.calls = 0
        self._at = at

    def of(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method with this behaviour."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise KeyboardInterrupt
            return method(*args, **kwargs)

        return call


@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [
        pytest.param(LayerChooser, "choose", 4, id="layers"),
        pytest.param(NetworkTrial, "compare", 3, id="sensitivity"),
        pytest.param(target_masks.MaskReference, "scores", 1, id="masks"),
    ],
)
def test_an_interrupted_calibration_goes_on(
    config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    at: int,
) -> None:
    """What was finished is not worked out again, and the networks are those of a calibration without a break."""
    method = getattr(owner, name)
    given: dict[str, Any] = {"samples": tmp_path / "samples", "sensitivity": True, "target_masks": 1e-6}
    given |= {"networks": ("dino", "memory_encoder")}
    whole = Interrupted(0)
    monkeypatch.setattr(owner, name, whole.of(method))
    wanted, _ = calibrate(config(tmp_path / "whole", **given))
    stopped, rest = Interrupted(at), Interrupted(0)
    monkeypatch.setattr(owner, name, stopped.of(method))
    with pytest.raises(KeyboardInterrupt):
        calibrate(config(tmp_path / "out", **given))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.unfinished"]
    monkeypatch.setattr(owner, name, rest.of(method))
    bundle, _ = calibrate(config(tmp_path / "out", **given))
    assert rest.calls == whole.calls - (at - 1)
    assert files(bundle) == files(wanted)
    assert bundle.calibration == wanted.calibration
    assert {path.name for path in tmp_path.iterdir()} == {"samples", "whole", "out"}


@pytest.mark.parametrize("place", ["in the first", "between", "in the second"])
def test_networks_that_share_weights_still_do(
    config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Mask prompt and mask decoder have one transformer: wherever the break is, it is stored once, the same."""
    given: dict[str, Any] = {"samples": tmp_path / "samples", "networks": ("mask_prompt", "mask_decoder")}
    wanted, networks = calibrate(config(tmp_path / "whole", **given))
    first = min(len(network.choices) for network in networks)
    at = {"in the first": first // 2, "between": first + 1, "in the second": first + first // 2}[place]
    with monkeypatch.context() as patch:
        patch.setattr(LayerChooser, "choose", Interrupted(at).of(LayerChooser.choose))
        with pytest.raises(KeyboardInterrupt):
            calibrate(config(tmp_path / "out", **given))
    bundle, _ = calibrate(config(tmp_path / "out", **given))
    assert files(bundle) == files(wanted)
    assert bundle.calibration == wanted.calibration
