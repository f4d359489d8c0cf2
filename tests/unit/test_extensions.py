"""Components of a user's own: docs/extending.md as it stands, from a file that a config or the environment names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "extending.md"

USE = """
import json, sys, torch
from yt8m_ray.config.document import load_document
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.errors import ConfigError
sizes = "data={features: {rgb: 6, audio: 2}, num_classes: 5}"
try:
    config = load_document(None, TrainConfig, ["run.name=x", sizes, *sys.argv[1:]])
except ConfigError as error:
    sys.exit(f"error: {error}")
from yt8m_ray.evaluation import Evaluation
from yt8m_ray.losses import build_loss
from yt8m_ray.models import build_model
model = build_model(config.model, feature_sizes=(6, 2), num_classes=5)
logits = model(torch.randn(3, 4, 8), torch.tensor([4, 2, 0]))
labels = torch.eye(5)[:3]
loss = build_loss(config.loss)(logits, labels)
loss.backward()
evaluation = Evaluation()
evaluation.update(torch.eye(5)[:3], labels, loss.detach())
print(json.dumps([type(model).__name__, float(loss), evaluation.compute()["recall_5"], sorted(config.run.imports)]))
"""


@pytest.fixture
def components(tmp_path: Path) -> Path:
    """Returns the file that the document describes."""
    file = tmp_path / "my_components.py"
    file.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)))
    return file


def use(*overrides: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", USE, *overrides], cwd=cwd, env=variables, capture_output=True, text=True
    )


OWN = ("model={name: max_pool, hidden_dim: 3}", "loss.name=asymmetric")


@pytest.mark.parametrize("by", ["config", "environment"])
def test_what_the_document_shows_is_built_trained_and_measured(components: Path, by: str) -> None:
    if by == "config":
        result = use("run.imports=[my_components.py]", *OWN, cwd=components.parent)
    else:
        result = use(*OWN, cwd=ROOT, YT8M_IMPORTS=str(components))

    assert result.returncode == 0, result.stderr
    name, loss, recall, imports = json.loads(result.stdout)
    assert (name, recall) == ("MaxPool", 1.0) and loss > 0
    assert imports == (["my_components.py"] if by == "config" else [])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("run.imports=[my_components.py]", "model={name: max_pool, hiden: 3}"),
            "model.hiden: unknown key; valid: h",
        ),
        (("run.imports=[nothing.py]", *OWN), "run.imports: nothing.py: there is no such file"),
        (("run.imports=[broken.py]", *OWN), "run.imports: broken.py: cannot be imported: ZeroDivisionError: "),
        (("run.imports=[sys.py]", *OWN), "run.imports: sys.py: another module has the name sys already"),
        (
            ("run.imports=[no_such_module]", *OWN),
            "run.imports: no_such_module: cannot be imported: ModuleNotFoundError",
        ),
        (OWN, "model: name: unknown model 'max_pool'; valid: "),
    ],
)
def test_what_is_wrong_with_it_is_said(components: Path, overrides: tuple[str, ...], message: str) -> None:
    (components.parent / "broken.py").write_text("1 / 0")
    (components.parent / "sys.py").touch()

    result = use(*overrides, cwd=ROOT) if overrides == OWN else use(*overrides, cwd=components.parent)

    assert result.returncode == 1
    assert message in result.stderr.splitlines()[0]
