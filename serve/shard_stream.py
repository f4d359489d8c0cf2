"""A whole shard as the body of a request: answered line by line while it arrives, with no more memory for a longer one.

Lives here: what is sent, and when. Does not live here: reading (`serve.shard_lines`), and what a line says of a video
(`serve.predict_routes`).

One task reads, decodes and asks the model, another sends the answers in the order of the records. At most some
`2 * max_batch_size` videos are between them, so a model that is slower than the client holds up reading, and a client
that takes no answers holds up both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serve.access import HAS_LEFT, NOTES
from serve.batching import Answer
from serve.decoding import check_top_k
from serve.encodings import content_encoding
from serve.errors import CLOSE, RequestError, error_detail, error_response
from serve.hosting import HostedModel
from serve.requests import check_announced, seconds_for
from serve.service import Service
from serve.shard_lines import Line, LineReader

TFRECORD_TYPE = "application/x-tfrecord"
NDJSON_TYPE = "application/x-ndjson"

_MOST_LINES_AT_ONCE = 32

Describe = Callable[[str, Answer], str]
"""Takes a video's id and its answer, and returns what its line says, as JSON without the braces around it."""


class ShardAnswer(Response):
    """The answer to a shard, which is read while it is sent.

    Args:
        service: The replica.
        model: Answers all records.
        top_k: Classes a video; None is the service's default.
        describe: Makes the lines.
        request: Its body has not been read.

    Raises:
        RequestError: it cannot be answered at all.
    """

    def __init__(
        self, service: Service, model: HostedModel, top_k: int | None, describe: Describe, request: Request
    ) -> None:
        # Without the base's __init__, which would announce a body of no bytes.
        self.status_code, self.media_type, self.background = 200, NDJSON_TYPE, None
        self.init_headers()
        check_announced(request, service.limits.max_stream_bytes)
        checked_top_k = check_top_k(top_k, 1, model.predictor.spec, service.limits)
        self._service = service
        self._model = model
        self._describe = describe
        self._request = request
        seconds, encoding = seconds_for(request, service), content_encoding(request)
        self._reader = LineReader(service, model, checked_top_k, seconds, encoding)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, until the end, an error after which nothing can be read, or the client's departure."""
        try:
            async with asyncio.TaskGroup() as tasks:
                receiving = tasks.create_task(self._reader.receive(receive))
                reading = tasks.create_task(self._reader.read())
                try:
                    await self._write(scope, receive, send)
                except _NotTakenError as error:
                    reading.cancel()
                    await self._give_up(send, error.record)
                receiving.cancel()
                reading.cancel()
        except* ClientDisconnect:  # nobody is left to be told
            scope[HAS_LEFT] = True
        finally:
            self._reader.stop()
            scope[NOTES]["videos"] = self._reader.num_records

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the lines, those that are ready together."""
        lines = self._reader.lines
        line = await lines.get()
        if line.is_last and line.error is not None:  # nothing has been said yet, so the status can say it
            error = line.error
            response = error_response(self._request, error.status, error.message, headers=CLOSE)
            await response(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        texts: list[str] = []
        first = line.record
        while True:
            texts.append(await self._text_of(line))
            following = None if lines.empty() else lines.get_nowait()
            if following is None or not following.is_ready or len(texts) == _MOST_LINES_AT_ONCE:
                body = "".join(texts).encode()
                texts.clear()
                if not await self._is_taken(send, body, more_body=not line.is_last):
                    raise _NotTakenError(first)
                first = line.record + 1
            if line.is_last:
                return
            line = following or await lines.get()

    async def _text_of(self, line: Line) -> str:
        """Returns a line with its end, which says what the answer or the error is; nothing for the sound end."""
        try:
            if line.error is not None:
                raise line.error
            if line.answer is None:
                return ""
            async with asyncio.timeout_at(line.deadline):
                answer = await line.answer
        except TimeoutError:
            error = RequestError(504, "the deadline passed before the model had answered")
        except RequestError as refusal:
            error = refusal
        else:
            self._service.metrics.observe_stage("queue", answer.queue_s)
            self._service.metrics.observe_stage("model", answer.model_s)
            return f'{{"record":{line.record},{self._describe(line.video_id, answer)}}}\n'
        return self._error_text(line.record, error, is_last=line.is_last)

    def _error_text(self, record: int, error: RequestError, *, is_last: bool) -> str:
        content: dict[str, Any] = {"record": record, "error": error_detail(self._request, error.status, error.message)}
        return _dump({**content, "is_last": True} if is_last else content)

    async def _is_taken(self, send: Send, body: bytes, *, more_body: bool) -> bool:
        """Sends a part of the answer, and returns whether the connection had room for it in time."""
        try:
            async with asyncio.timeout(self._service.limits.body_timeout_s):
                await send({"type": "http.response.body", "body": body, "more_body": more_body})
        except TimeoutError:
            return False
        return True

    async def _give_up(self, send: Send, record: int) -> None:
        """Ends the answer to a client that takes none of it.

        Most such clients read only when they have sent everything. Closing the connection would not reach them, so the
        rest of the body is dropped until they do.

        Raises:
            ClientDisconnect: the client does not send on either, or without end.
        """
        self._reader.stop()
        limits = self._service.limits
        error = RequestError(
            408, f"answer: none of it was taken for {limits.body_timeout_s:g} s; read it while you send"
        )
        last = self._error_text(record, error, is_last=True).encode()
        num_bytes = -1
        while num_bytes < self._reader.num_bytes <= limits.max_stream_bytes:
            num_bytes = self._reader.num_bytes
            if await self._is_taken(send, last, more_body=False):
                return
        raise ClientDisconnect


class _NotTakenError(Exception):
    """The client takes no answers; `record` is the first that it did not get."""

    def __init__(self, record: int) -> None:
        super().__init__(record)
        self.record = record


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
