"""The code of a bundle's MLflow model: MLflow copies this file into the model and runs it where the model is loaded."""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from yt8m_ray.inference.mlflow_model.video_table import ANSWER_COLUMNS, answer_rows, read_videos
from yt8m_ray.inference.predictor import Predictor
from yt8m_ray.topk import NaNScoresError

# Videos that go through the model at once, however long the table is.
BATCH_SIZE = 256


class BundleModel(PythonModel):
    """Answers tables of videos with the bundle in the artifacts of the model."""

    # MLflow calls both methods, with arguments by keyword; this one once a process.
    def load_context(self, context: PythonModelContext) -> None:
        """Loads the bundle."""
        self._predictor = Predictor.from_path(context.artifacts["bundle"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Returns a row a video: video_id, class_ids, names and scores, best first.

        Args:
            context: Not used.
            model_input: The columns of the signature; MlflowException names the row and column that do not fit.
            params: `top_k`, classes a video; more than there are gives all.
        """
        predictor, top_k = self._predictor, int((params or {}).get("top_k", 20))
        try:
            video_ids, rows = read_videos(model_input.to_dict(orient="records"), predictor.spec)
            if top_k < 1:
                raise ValueError(f"top_k: expected at least 1, found {top_k}")
        except ValueError as error:  # of any other error MLflow's server sends its client the traceback
            raise MlflowException.invalid_parameter_value(str(error)) from None
        answers: list[dict[str, Any]] = []
        for start in range(0, len(rows), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            try:
                best = predictor.predict(rows[part], top_k)
            except NaNScoresError as error:
                reason = "the model's scores of it are NaN; its features are too large"
                raise MlflowException.invalid_parameter_value(f"row {start + error.rows[0]}: {reason}") from None
            answers += answer_rows(video_ids[part], best, predictor.vocabulary)
        return pd.DataFrame(answers, columns=list(ANSWER_COLUMNS))


# By this call MLflow gets the model when it runs the file.
set_model(BundleModel())
