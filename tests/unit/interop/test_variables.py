"""Variables by name: what belongs to a name and what does not, and what is refused."""

from __future__ import annotations

import importlib.util
import io
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
from yt8m_ray.interop.import_checkpoint import import_checkpoint
from yt8m_ray.interop.tensorflow import load_published, published_parts
from yt8m_ray.interop.variables import read_variables
from yt8m_ray.models import Model, build_model

RNG = np.random.default_rng(0)
PLAIN = {
    "gates/weights": RNG.normal(size=(3, 6)).astype(np.float32),
    "experts/weights": RNG.normal(size=(3, 4)).astype(np.float32),
    "experts/biases": RNG.normal(size=4).astype(np.float32),
}


def small_model() -> Model:
    return build_model({"name": "moe", "num_mixtures": 2}, feature_sizes=(2, 1), num_classes=2).eval()


def loaded(variables: Mapping[str, object], *, ema: bool = False) -> dict[str, torch.Tensor]:
    model = small_model()
    load_published(model, variables, ema=ema)
    return model.state_dict()


def refusal(variables: Mapping[str, object], *, ema: bool = False) -> str:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"^(ema|the variables do not fit)") as caught:
        load_published(model, variables, ema=ema)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return str(caught.value)


def without(name: str) -> dict[str, np.ndarray]:
    return {other: array for other, array in PLAIN.items() if other != name}


def averaged(scope: str = "") -> dict[str, np.ndarray]:
    return {f"{scope}{name}/ExponentialMovingAverage": array + 1 for name, array in PLAIN.items()}


def assert_same(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def test_scopes_and_output_numbers_do_not_matter() -> None:
    assert_same(loaded({f"tower/{name}:0": array for name, array in PLAIN.items()}), loaded(PLAIN))


def test_optimizer_slots_and_counters_are_ignored() -> None:
    slots = {f"tower/{name}/{slot}": array * 0 for name, array in PLAIN.items() for slot in ("Adam", "Adam_1")}
    counters = {"global_step": np.int64(7), "beta1_power": np.float32(0.9), "train/beta2_power:0": np.float32(0.9)}
    assert_same(loaded({**PLAIN, **slots, **counters}), loaded(PLAIN))


def test_raw_weights_are_taken_unless_moving_averages_are_asked_for() -> None:
    both = {**PLAIN, **averaged()}
    assert_same(loaded(both), loaded(PLAIN))
    assert_same(loaded(both, ema=True), loaded({name: array + 1 for name, array in PLAIN.items()}))


def test_moving_averages_may_have_scopes_of_their_own() -> None:
    both = {f"tower/{name}": array for name, array in PLAIN.items()} | averaged("tower/tower/")
    assert_same(loaded(both, ema=True), loaded({name: array + 1 for name, array in PLAIN.items()}))


def test_a_variable_without_a_moving_average_is_taken_as_it_is() -> None:
    some = {**PLAIN, "experts/biases/ExponentialMovingAverage": PLAIN["experts/biases"] + 1}
    assert_same(loaded(some, ema=True), loaded({**PLAIN, "experts/biases": PLAIN["experts/biases"] + 1}))


def test_moving_averages_that_are_not_there_are_refused() -> None:
    assert refusal(PLAIN, ema=True) == "ema: none of the variables is an ExponentialMovingAverage"


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    variables = {**without("experts/biases"), "gates/weights": np.zeros((6, 3)), "hidden1_weights": np.zeros(2)}
    assert refusal(variables) == (
        "the variables do not fit MoEModel: experts/biases is missing; hidden1_weights is unexpected; "
        "gates/weights is [6, 3], expected [3, 6]"
    )


def test_two_models_in_one_checkpoint_are_ambiguous() -> None:
    two = {f"model_{i}/{name}": array for i in (0, 1) for name, array in PLAIN.items()}
    assert "gates/weights (model_0/gates/weights, model_1/gates/weights) is ambiguous" in refusal(two)


def test_arrays_of_text_are_refused() -> None:
    assert "experts/biases holds <U1, expected numbers" in refusal({**PLAIN, "experts/biases": np.array(list("abcd"))})


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_no_weights_are_refused(value: float) -> None:
    assert "experts/biases holds NaN or infinity" in refusal({**PLAIN, "experts/biases": np.full(4, value)})


def test_double_precision_is_rounded() -> None:
    assert_same(loaded({name: array.astype(np.float64) for name, array in PLAIN.items()}), loaded(PLAIN))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_taken_with_a_gradient_and_in_bfloat16_too(dtype: torch.dtype) -> None:
    tensors = {name: torch.nn.Parameter(torch.from_numpy(array).to(dtype)) for name, array in PLAIN.items()}
    expected = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
    assert_same(loaded(tensors), loaded(expected))


def test_a_model_of_other_origin_says_so() -> None:
    model = build_model({"name": "monn", "hidden_dims": (2,)}, feature_sizes=(2,), num_classes=2)
    with pytest.raises(ValueError, match="no published variables are known for MoNNModel"):
        load_published(model, PLAIN)


def test_an_npz_file_is_read_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "variables.npz", **PLAIN, **{"gates/weights/Adam": PLAIN["gates/weights"]})
    found = read_variables(tmp_path / "variables.npz")
    assert found.keys() == PLAIN.keys()
    assert all(np.array_equal(found[name], array) for name, array in PLAIN.items())


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut short"])
def test_a_damaged_npz_file_is_refused_with_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "variables.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"variables\.npz: expected an \.npz file of arrays by variable name"):
        read_variables(path)


def test_a_file_that_expands_as_no_weights_do_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "variables.npz"
    np.savez(path, **{"gates/weights": PLAIN["gates/weights"]})
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 4_000_000_000)  # its size unpacked
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"variables\.npz: .*bytes expand to 4000000000, which no weights do"):
        read_variables(path)


def test_an_array_whose_head_promises_more_than_there_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "variables.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**14,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gates/weights.npy", head.getvalue())

    with pytest.raises(ValueError, match=r"variables\.npz: expected an \.npz file of arrays"):
        read_variables(path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "variables.npz", **{"gates/weights": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ValueError, match=r"expected an \.npz file of arrays"):
        read_variables(tmp_path / "variables.npz")


def test_neither_a_file_nor_a_prefix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.ckpt-10: expected an \.npz file, or the prefix of"):
        read_variables(tmp_path / "model.ckpt-10")


CHECKPOINT = Path(__file__).parents[2] / "golden" / "tensorflow_checkpoint" / "model.ckpt-7"
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="the extra tensorflow is not installed")
def test_a_checkpoint_of_tensorflow_is_read_and_loaded() -> None:
    variables = read_variables(CHECKPOINT)
    assert not any("Adam" in name or "power" in name or "step" in name for name in variables)
    for ema in (False, True):
        biases = loaded(variables, ema=ema)["head.experts.bias"]
        assert torch.equal(biases, torch.arange(4.0) + ema)


@pytest.mark.parametrize("suffix", ["index", "data-00000-of-00001"])
def test_any_file_of_a_checkpoint_stands_for_its_prefix(suffix: str) -> None:
    if HAS_TENSORFLOW:
        assert read_variables(f"{CHECKPOINT}.{suffix}").keys() == read_variables(CHECKPOINT).keys()
    else:
        with pytest.raises(
            ValueError, match=r"model\.ckpt-7: the TensorFlow checkpoint cannot be read: TensorFlow is not"
        ):
            read_variables(f"{CHECKPOINT}.{suffix}")


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="the extra tensorflow is not installed")
def test_a_checkpoint_that_was_cut_short_is_refused_with_its_prefix(tmp_path: Path) -> None:
    shutil.copy(f"{CHECKPOINT}.index", tmp_path / "model.ckpt-7.index")
    with pytest.raises(ValueError, match=r"model\.ckpt-7: the TensorFlow checkpoint cannot be read: "):
        read_variables(tmp_path / "model.ckpt-7")


@pytest.mark.skipif(HAS_TENSORFLOW, reason="TensorFlow is installed")
def test_a_checkpoint_without_tensorflow_says_what_to_install() -> None:
    with pytest.raises(ValueError, match=r"pip install 'yt8m_ray\[tensorflow\]', or save the variables as an \.npz"):
        read_variables(CHECKPOINT)


def test_weights_that_attend_to_padding_need_a_config_that_does(tmp_path: Path) -> None:
    model = build_model({"name": "frame_attention"}, feature_sizes=(2, 1), num_classes=2)
    shapes = {name: shape for part in published_parts(model) for name, shape in part.shapes.items()}
    np.savez(tmp_path / "variables.npz", **{name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    document = {"run": {"name": "attention"}, "data": {"features": {"rgb": 2, "audio": 1}, "num_classes": 2}}
    config = TrainConfig.model_validate({**document, "model": {"name": "frame_attention"}})
    with pytest.raises(ConfigError, match=r"model\.attend_to_padding: published weights need true, found false"):
        import_checkpoint(config, tmp_path / "variables.npz", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()
    config = TrainConfig.model_validate({**document, "model": {"name": "frame_attention", "attend_to_padding": True}})
    assert import_checkpoint(config, tmp_path / "variables.npz", tmp_path / "checkpoint").is_dir()
