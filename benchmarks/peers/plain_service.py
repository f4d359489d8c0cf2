"""The peer of serving.py: the predictor behind FastAPI and uvicorn, as one writes it for a single evening.

    python benchmarks/peers/plain_service.py BUNDLE PORT

A record in, the best 20 classes out, one request after the other in the event loop. No batches, limits, deadlines,
metrics, tokens, access log or change of models.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a file, its folder is what Python looks in

from yt8m_ray.data.format.example import decode_record
from yt8m_ray.data.format.features import to_row
from yt8m_ray.inference.predictor import Predictor


def build_app(bundle: str) -> FastAPI:
    """Returns the application."""
    predictor, app = Predictor.from_path(bundle), FastAPI()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict[str, Any]:
        row = to_row(decode_record(await request.body()), predictor.spec, labelled=False)
        best = predictor.predict([row])
        pairs = zip(best.class_ids[0].tolist(), best.scores[0].tolist(), strict=True)
        name = predictor.vocabulary.name
        labels = [{"class_id": class_id, "name": name(class_id), "score": score} for class_id, score in pairs]
        return {"model_version": predictor.version, "predictions": [{"video_id": row.video_id, "labels": labels}]}

    return app


if __name__ == "__main__":
    torch.set_num_threads(1)
    uvicorn.run(build_app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), access_log=False)
