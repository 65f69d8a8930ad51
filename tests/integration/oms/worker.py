"""A worker of oms inside a test, without ports."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from services.oms import bootstrap
from services.runtime.service import WorkerContext
from tests.integration.oms.platform import OmsPlatform


class WorkerInProcess:
    """Wired on entering, stopped in order on leaving."""

    def __init__(self, platform: OmsPlatform, variables: Mapping[str, str] | None = None) -> None:
        self.context = WorkerContext(platform.oms_settings(variables), 0, 1, asyncio.Event())
        self.worker = bootstrap.Worker(self.context)

    async def __aenter__(self) -> bootstrap.Worker:
        try:
            self.worker.service.attach(await self.worker.wire())
        except BaseException:
            await self.__aexit__()
            raise
        await self.worker.board.probe_once()
        return self.worker

    async def __aexit__(self, *_: object) -> None:
        self.context.stop.set()
        await self.worker.stop()
        await self.context.cancel_owned()
