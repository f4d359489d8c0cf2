"""A whole shard as the body of a request: answered line by line while it arrives, in memory of bounded size."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from serve.errors import CLOSE, OverloadedError, RequestError
from serve.http.access_log import HAS_LEFT, NOTES
from serve.http.encodings import DEFLATE, GZIP, IDENTITY, content_encoding
from serve.http.error_handlers import error_detail, error_response
from serve.http.intake import INLINE_BYTES
from serve.http.requests import check_announced, seconds_for
from serve.http.schemas import NDJSON_TYPE
from serve.http.service import Service
from serve.http.video_input import PredictionInput, check_top_k, decode_binary, decode_ordinary
from serve.model.batching import Answer
from serve.model.hosted_model import HostedModel
from serve.model.label_json import dump
from yt8m_ray.data.errors import CorruptRecordError, RecordTooLargeError
from yt8m_ray.data.format.framing import Records
from yt8m_ray.data.format.incremental_reader import ArrivingShard
from yt8m_ray.data.storage.byte_stream import Compression

# By content encoding. Without one the reader looks whether the shard itself is packed.
_COMPRESSIONS: dict[str, Compression] = {IDENTITY: "auto", GZIP: "gzip", DEFLATE: "deflate"}

_MAX_LINES_AT_ONCE = 32
_QUEUE_POLL_S = 0.01

Describe = Callable[[str, Answer], str]  # video id and answer -> the fields of a line, as JSON without the braces


class ShardAnswer(Response):
    """The answer to a shard, which is read while the answer is sent; RequestError if it cannot be answered at all.

    `model` answers all records, even if another one is promoted meanwhile.
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
        self._describe = describe
        self._request = request
        seconds, encoding = seconds_for(request, service), content_encoding(request)
        self._reader = LineReader(service, model, checked_top_k, seconds, encoding)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                receiving = tasks.create_task(self._reader.receive(receive))
                reading = tasks.create_task(self._reader.read())
                not_taken = await self._write(scope, receive, send)
                reading.cancel()
                if not_taken is not None:
                    await self._give_up(send, not_taken)
                receiving.cancel()
        except* ClientDisconnect:
            scope[HAS_LEFT] = True
        finally:
            self._reader.stop()
            scope[NOTES]["videos"] = self._reader.num_records

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Sends the lines, all that are ready at once; returns the first record whose line the client did not take."""
        lines = self._reader.lines
        line = await lines.get()
        # Nothing has been sent yet, so the status can be the error's.
        if line.is_last and line.error is not None:
            error = line.error
            response = error_response(self._request, error.status, error.message, headers=CLOSE)
            await response(scope, receive, send)
            return None
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        texts: list[str] = []
        first = line.record
        while True:
            texts.append(await self._text_of(line))
            following = None if lines.empty() else lines.get_nowait()
            if following is None or not following.is_ready or len(texts) == _MAX_LINES_AT_ONCE:
                body = "".join(texts).encode()
                texts.clear()
                if not await self._is_taken(send, body, more_body=not line.is_last):
                    return first
                first = line.record + 1
            if line.is_last:
                return None
            line = following or await lines.get()

    async def _text_of(self, line: Line) -> str:
        """Returns the text of a line: an answer, an error, or nothing at the end of a sound shard."""
        error = line.error
        if line.answer is not None:
            try:
                async with asyncio.timeout_at(line.deadline):
                    answer = await line.answer
                self._service.metrics.observe_stage("queue", answer.queue_s)
                self._service.metrics.observe_stage("model", answer.model_s)
                return f'{{"record":{line.record},{self._describe(line.video_id, answer)}}}\n'
            except TimeoutError:
                error = RequestError(504, "the deadline passed before the model had answered")
            except RequestError as refusal:
                error = refusal
        return "" if error is None else self._error_text(line.record, error, is_last=line.is_last)

    def _error_text(self, record: int, error: RequestError, *, is_last: bool) -> str:
        content: dict[str, Any] = {"record": record, "error": error_detail(self._request, error.status, error.message)}
        return dump({**content, "is_last": True} if is_last else content) + "\n"

    async def _is_taken(self, send: Send, body: bytes, *, more_body: bool) -> bool:
        """Sends a part of the answer, and returns whether the connection had room for it in time."""
        try:
            async with asyncio.timeout(self._service.limits.body_timeout_s):
                await send({"type": "http.response.body", "body": body, "more_body": more_body})
        except TimeoutError:
            return False
        return True

    async def _give_up(self, send: Send, record: int) -> None:
        """Ends the answer to a client that takes none of it; ClientDisconnect if it does not send on either."""
        self._reader.stop()
        limits = self._service.limits
        message = f"answer: none of it was taken for {limits.body_timeout_s:g} s; read it while you send"
        error = RequestError(408, message)
        last = self._error_text(record, error, is_last=True).encode()
        # Most such clients read only after they have sent everything, and closing the connection would not reach them:
        # the rest of the body is dropped until they read, as long as bytes arrive and the limit of a stream allows.
        num_bytes = -1
        while num_bytes < self._reader.num_bytes <= limits.max_stream_bytes:
            num_bytes = self._reader.num_bytes
            if await self._is_taken(send, last, more_body=False):
                return
        raise ClientDisconnect


@dataclass
class Line:
    """A line of the answer, or its end: a last line without an error is empty."""

    record: int  # index in the shard
    video_id: str = ""
    answer: asyncio.Future[Answer] | None = None
    deadline: float = 0.0  # of the answer, on the clock of the event loop
    error: RequestError | None = None  # why the model was not asked
    is_last: bool = False

    @property
    def is_ready(self) -> bool:
        return self.answer is None or self.answer.done()


class LineReader:
    """Reads a shard into `lines`, and asks the model for each record, within `seconds` from when it has arrived."""

    def __init__(self, service: Service, model: HostedModel, top_k: int, seconds: float, encoding: str) -> None:
        self._service = service
        self._limits = service.limits
        self._model = model
        self._top_k = top_k
        self._seconds = seconds
        self._compression = _COMPRESSIONS[encoding]
        self._hold = service.intake.hold()
        self._in_flight: set[asyncio.Future[Answer]] = set()
        self._messages: asyncio.Queue[Message] = asyncio.Queue(1)
        self._is_read = False
        # Between the task that reads and asks the model and the one that sends the answers. While it is full, nothing
        # is read: a model slower than the client stops the reading, and a client that takes no answers stops both.
        self.lines: asyncio.Queue[Line] = asyncio.Queue(2 * self._limits.max_batch_size)
        self.num_records = 0
        self.num_bytes = 0  # that have arrived, read or dropped

    def stop(self) -> None:
        """Drops the rest of the body, and cancels what the model has not begun."""
        self._drop_rest()
        self._hold.release()
        for answer in list(self._in_flight):
            answer.cancel()

    async def receive(self, receive: Receive) -> None:
        """Receives the body's messages until it is cancelled; ClientDisconnect when the client disconnects."""
        # One message ahead of what is read, so that a disconnect is noticed while the model computes.
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            self.num_bytes += len(message.get("body", b""))
            # The rest is dropped: a client that cannot send on would not read the answer's end.
            if not self._is_read:
                await self._messages.put(message)

    async def read(self) -> None:
        last = None
        try:
            async for records in self._records():
                view = records.data.data.toreadonly()
                for start, end in zip(records.starts.tolist(), records.ends.tolist(), strict=True):
                    await self.lines.put(await self._line_of(view[start:end]))
        except CorruptRecordError as error:
            status = 413 if isinstance(error.__cause__, RecordTooLargeError) else 400
            last = Line(error.record, error=RequestError(status, str(error)), is_last=True)
        except RequestError as error:
            last = Line(self.num_records, error=error, is_last=True)
        await self.lines.put(last or Line(self.num_records, is_last=True))
        self._drop_rest()

    def _drop_rest(self) -> None:
        self._is_read = True
        while not self._messages.empty():  # else `receive` would wait for room
            self._messages.get_nowait()

    async def _records(self) -> AsyncIterator[Records]:
        shard = ArrivingShard("body", max_record_bytes=self._limits.max_body_bytes, compression=self._compression)
        has_more = True
        while has_more:
            part, has_more = await self._next_part()
            self._hold.add(len(part))
            shard.feed(part)
            if not has_more:
                shard.finish()
            while (records := await self._next_records(shard)) is not None:
                self._hold.release()  # less than one part of them is left
                self._check_size(records.offset + len(records.data))
                yield records

    async def _next_records(self, shard: ArrivingShard) -> Records | None:
        # Unpacking takes milliseconds, and so does the first search on a machine that has not compiled it yet.
        if shard.is_packed or self.num_records == 0:
            return await asyncio.to_thread(shard.next_records)
        return shard.next_records()

    async def _next_part(self) -> tuple[bytes, bool]:
        """Returns bytes of the body, and whether more may follow."""
        seconds = self._limits.body_timeout_s
        try:
            async with asyncio.timeout(seconds):
                message = await self._messages.get()
        except TimeoutError:
            raise RequestError(408, f"body: expected more of it within {seconds:g} s, found nothing") from None
        self._check_size(self.num_bytes)
        return message.get("body", b""), message.get("more_body", False)

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self._limits.max_stream_bytes:
            raise RequestError(413, f"body: at most {self._limits.max_stream_bytes} bytes, found more")

    async def _line_of(self, payload: memoryview) -> Line:
        record = self.num_records
        self.num_records += 1
        try:
            deadline = asyncio.get_running_loop().time() + self._seconds
            asked = await self._decode(payload, deadline)
            answer = await self._ask(asked, deadline)
        except RequestError as error:
            return Line(record, error=error)
        return Line(record, asked.video_ids[0], answer, deadline)

    async def _decode(self, payload: memoryview, deadline: float) -> PredictionInput:
        started = time.perf_counter()
        spec = self._model.predictor.spec
        at_once = functools.partial(decode_ordinary, payload, self._top_k, self._model.records, spec, self._limits)
        decode = functools.partial(decode_binary, payload, self._top_k, spec, self._limits)
        is_short = len(payload) <= INLINE_BYTES
        asked = await self._hold.decode(decode, deadline, at_once=at_once if is_short else None)
        self._service.metrics.observe_stage("decode", time.perf_counter() - started)
        return asked

    async def _ask(self, asked: PredictionInput, deadline: float) -> asyncio.Future[Answer]:
        """Asks the model as soon as half of the queue is free; OverloadedError after the deadline."""
        # The other half is for requests that would be refused, while a stream can wait.
        batcher, most = self._service.batcher, self._service.limits.max_queued_videos // 2
        while batcher.num_queued > most:
            if asyncio.get_running_loop().time() >= deadline:
                raise OverloadedError("the queue did not become free before the deadline", retry_after_s=1)
            await asyncio.sleep(_QUEUE_POLL_S)
        (answer,) = batcher.ask(self._model, asked.rows, asked.top_k)
        self._in_flight.add(answer)
        answer.add_done_callback(self._in_flight.discard)
        return answer
