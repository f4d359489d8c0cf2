"""The ensemble: a mean of probabilities, and members that must go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yt8m_ray.config.data import DataConfig
from yt8m_ray.data.labels.vocabulary import Vocabulary
from yt8m_ray.inference.ensemble.members import check_agreement, check_vocabularies
from yt8m_ray.models import Model, build_model
from yt8m_ray.models.ensemble import Ensemble


def tiny(seed: int, *, num_classes: int = 5) -> Model:
    torch.manual_seed(seed)
    model = build_model({"name": "logistic"}, feature_sizes=(4, 2), num_classes=num_classes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(9)
    return torch.randn(3, 4, 6), torch.tensor([4, 1, 2])


def test_the_ensemble_is_the_weighted_mean_of_probabilities() -> None:
    members = [tiny(1), tiny(2), tiny(3)]
    frames, num_frames = clips()
    with torch.inference_mode():
        found = torch.sigmoid(Ensemble(members, [0.5, 0.3, 0.2]).eval()(frames, num_frames))
        parts = [torch.sigmoid(member(frames, num_frames).double()) for member in members]
    expected = 0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2]
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_one_member_alone_gives_its_own_logits() -> None:
    member = tiny(1)
    frames, num_frames = clips()
    assert torch.equal(Ensemble([member], [1.0]).eval()(frames, num_frames), member(frames, num_frames))


def test_logits_stay_finite_where_members_are_certain_and_disagree() -> None:
    yes, no = tiny(1), tiny(1)
    for model, bias in ((yes, 200.0), (no, -200.0)):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.0 if parameter.ndim > 1 else bias)
    logits = Ensemble([yes, no], [0.5, 0.5]).eval()(*clips())
    assert torch.allclose(torch.sigmoid(logits), torch.full((3, 5), 0.5), atol=1e-6)


def test_an_ensemble_is_a_model_and_keeps_no_weights_of_its_own() -> None:
    ensemble = Ensemble([tiny(1), tiny(2)], [0.5, 0.5])
    assert isinstance(ensemble, Model)
    assert ensemble.feature_sizes == (4, 2)
    assert all(name.startswith("members.") for name in ensemble.state_dict())


@pytest.mark.parametrize("weights", [[0.5, 0.4], [1.5, -0.5], [1.0], [1.0, 0.0]])
def test_weights_that_are_no_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="ensemble: "):
        Ensemble([tiny(1), tiny(2)], weights)


def test_members_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="same features and classes"):
        Ensemble([tiny(1), tiny(2, num_classes=6)], [0.5, 0.5])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features", {"audio": 4, "rgb": 8}),
        ("features", {"rgb": 8, "audio": 2}),
        ("num_classes", 31),
        ("max_frames", 5),
        ("normalize", "none"),
    ],
)
def test_members_that_read_other_inputs_are_refused_by_name_and_key(key: str, value: object) -> None:
    first = DataConfig(features={"rgb": 8, "audio": 4}, num_classes=30)
    other = DataConfig.model_validate({**first.model_dump(), key: value})
    with pytest.raises(ValueError, match=rf"^b: data\.{key} is .*, but a has "):
        check_agreement(["a", "b"], [first, other])


def test_vocabularies_in_which_a_class_is_another_are_refused_by_name_and_class(tmp_path: Path) -> None:
    published, unknown = Vocabulary.for_num_classes(30), Vocabulary.for_num_classes(4716)
    published.save(tmp_path / "published.csv")
    text = (tmp_path / "published.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace("/m/0k4j,Car,", "/m/07yv9,Vehicle,"))
    other = Vocabulary.load(tmp_path / "other.csv")

    check_vocabularies(["a", "b", "c"], [published, unknown, Vocabulary.load()])
    with pytest.raises(ValueError, match=r"^c: class 7 is 'Vehicle' in its data\.vocabulary, but 'Car' in that of b; "):
        check_vocabularies(["a", "b", "c"], [unknown, published, other])
