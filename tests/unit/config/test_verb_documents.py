"""The documents of evaluations and exports, and the shipped ones."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from yt8m_ray.config.document import ConfigError, load_document, override, parse_yaml, to_yaml
from yt8m_ray.config.evaluate import EvaluateConfig
from yt8m_ray.config.export import ExportConfig

ROOT = Path(__file__).parents[3]
EXPORTS = sorted((ROOT / "configs" / "export").glob("*.yaml"))


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_a_shipped_export_survives_save_and_load(path: Path) -> None:
    config = load_document(path, ExportConfig)

    assert ExportConfig.model_validate(parse_yaml(to_yaml(config), where="saved")) == config


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.stem)
def test_the_command_in_the_header_of_a_shipped_export_names_every_member(path: Path) -> None:
    (command,) = [line for line in path.read_text().splitlines() if line.startswith("# python")]
    words = shlex.split(command.removeprefix("# "))

    assert words[:3] == ["python", "-m", "jobs.export"]
    assert (ROOT / words[3]).samefile(path)
    config = load_document(path, ExportConfig, words[4:])
    assert [member.checkpoint for member in config.members] == ["CHECKPOINT"] * 2


@pytest.mark.parametrize(
    "key", ["data.features", "data.normalize", "data.num_classes", "data.train", "scaling.use_gpu", "model.name"]
)
def test_what_a_model_says_itself_is_no_key_of_an_evaluation(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key if key != 'model.name' else 'model'}: unknown key"):
        override(EvaluateConfig(), {key: "1"})


def test_an_evaluation_names_its_shards_its_loss_and_its_workers() -> None:
    changes = {"data.test": ["a", "b"], "data.verify_checksums": False, "scaling.num_workers": 2}
    config = override(EvaluateConfig(), changes | {"loss.published_epsilon": 1e-5})

    tree = parse_yaml(to_yaml(config), where="saved")
    assert tree["data"] == {"test": ["a", "b"], "verify_checksums": False, "on_corrupt": "fail"}
    assert tree["loss"]["published_epsilon"] == 1e-5
    assert tree["scaling"] == {"num_workers": 2}
