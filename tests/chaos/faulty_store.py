"""An S3 endpoint before another one that fails as stores do: status 5xx, slowness, silence, refusal.

Requests go on with the Host that the client signed, so that the store behind checks the very signature.
"""

import asyncio
import random
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from cluster.local.seaweed import S3Server, free_ports

MODES = ("errors", "slow", "refused", "reset", "silent", "forbidden")
MOST_SKEW = timedelta(minutes=15)
OF_ONE_HOP = ("Connection", "Expect", "Keep-Alive", "Transfer-Encoding")
ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


class FaultyStore:
    """Answers for the server behind it; what `mode` says goes wrong with requests from then on.

    Attributes:
        mode: None while all is well; `errors`: half of the requests get a 500 or 503; `slow`: each waits a while;
            `refused`: nobody listens; `reset`: connections end without an answer; `silent`: no answer comes;
            `forbidden`: 403, the key is unknown.
        slowest_seconds: the longest that a request waits in the mode `slow`.
        hurt: requests that something went wrong with.
    """

    def __init__(self, behind: S3Server, seed: int) -> None:
        self.behind, self.chance = behind, random.Random(seed)
        self.port = free_ports(1)[0]
        self.server = replace(behind, endpoint=f"http://127.0.0.1:{self.port}")
        self.mode: str | None = None
        self.slowest_seconds = 2.0
        self.hurt = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def set(self, mode: str | None) -> None:
        """Change the mode, from any thread."""
        assert mode is None or mode in MODES
        self._do(self._change(mode))

    def start(self) -> None:
        self._thread.start()
        self._do(self._open())

    def stop(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _open(self) -> None:
        self._client = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()

    async def _listen(self) -> None:
        self._site: web.TCPSite | None = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()

    async def _close(self) -> None:
        self.mode = None
        await self._runner.cleanup()
        await self._client.close()

    async def _change(self, mode: str | None) -> None:
        self.mode = mode
        if mode == "refused" and self._site is not None:
            await self._site.stop()
            self._site = None
        elif mode != "refused" and self._site is None:
            await self._listen()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if _skewed(request):
            return self._error(403, "RequestTimeTooSkewed", "The request's time and the store's differ too much.")
        if self.mode is not None and (answer := await self._go_wrong(request)) is not None:
            return answer
        return await self._pass_on(request, body)

    async def _go_wrong(self, request: web.Request) -> web.Response | None:
        """The wrong answer of the present mode; None: the right one."""
        mode = self.mode
        if mode == "errors" and self.chance.random() < 0.5:
            return None
        self.hurt += 1
        if mode == "errors":
            if self.chance.random() < 0.5:
                return self._error(500, "InternalError", "We encountered an internal error. Please try again.")
            return self._error(503, "SlowDown", "Please reduce your request rate.")
        if mode == "forbidden":
            return self._error(403, "InvalidAccessKeyId", "The key does not exist in our records.")
        if mode == "slow":
            await asyncio.sleep(self.chance.uniform(0, self.slowest_seconds))
            return None
        while mode == "silent" and self.mode == "silent":
            await asyncio.sleep(0.1)
        if request.transport is not None:
            request.transport.abort()
        raise web.HTTPServiceUnavailable  # into a connection that is no more

    def _error(self, status: int, code: str, message: str) -> web.Response:
        return web.Response(
            status=status, body=ERROR.format(code=code, message=message), content_type="application/xml"
        )

    async def _pass_on(self, request: web.Request, body: bytes) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name not in OF_ONE_HOP]
        url = URL(self.behind.endpoint + request.raw_path, encoded=True)
        skipped = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
        sent = self._client.request(
            request.method, url, headers=headers, data=body, allow_redirects=False, skip_auto_headers=skipped
        )
        async with sent as got:
            kept = [(name, value) for name, value in got.headers.items() if name not in OF_ONE_HOP]
            answer = web.StreamResponse(status=got.status, headers=kept)
            await answer.prepare(request)
            async for piece in got.content.iter_any():
                await answer.write(piece)
            await answer.write_eof()
            return answer


def _skewed(request: web.Request) -> bool:
    """Whether the client's clock is off, which S3 refuses."""
    signed = request.headers.get("X-Amz-Date")
    if signed is None:
        return False
    at = datetime.strptime(signed, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return abs(datetime.now(UTC) - at) > MOST_SKEW


@contextmanager
def faulty_store(behind: S3Server, seed: int) -> Iterator[FaultyStore]:
    """Run one on a free port of the loopback."""
    store = FaultyStore(behind, seed)
    store.start()
    try:
        yield store
    finally:
        store.stop()
