"""python -m benchmarks.service.plain_routes: CPU time of a request's route as a PlainRoute and as FastAPI's own."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from serve.http.plain_routes import PlainRoute

BODY = bytes(300 * 1152)
NUM_ROUNDS, NUM_REQUESTS = 15, 400
SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/predict",
    "query_string": b"top_k=5",
    "root_path": "",
    "headers": [(b"host", b"localhost"), (b"content-type", b"application/octet-stream")],
}


def api_of(**options: Any) -> FastAPI:
    async def answer(request: Request) -> Response:
        await request.body()
        return Response(bytes(1000), media_type="application/json")

    api = FastAPI()
    api.router.add_api_route("/v1/predict", answer, methods=["POST"], **options)
    return api


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": BODY, "more_body": False}


async def send(message: Any) -> None:
    assert message.get("status", 200) == 200


async def main() -> None:
    apis = {"PlainRoute": api_of(route_class_override=PlainRoute), "FastAPI's": api_of()}
    seconds: dict[str, list[float]] = {name: [] for name in apis}
    for _ in range(NUM_ROUNDS):  # in turns, so that a busy minute of the machine counts for both
        for name, api in apis.items():
            started = time.process_time()
            for _ in range(NUM_REQUESTS):
                await api(dict(SCOPE), receive, send)
            seconds[name].append((time.process_time() - started) / NUM_REQUESTS)
    for name, each in seconds.items():
        print(f"{name}: {statistics.median(each) * 1e6:.0f} us of CPU a request")


if __name__ == "__main__":
    asyncio.run(main())
