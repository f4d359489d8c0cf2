"""Follows an alias of MLflow: when it moves, its model is promoted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serve.operations.changes import RefusedError
from serve.release.plan import BusyError, ReleasePlan, Slot

logger = logging.getLogger("ray.serve.yt8m")


async def follow_alias(plan: ReleasePlan, resolve: Callable[[str], str], interval_s: float) -> None:
    """Promotes what the plan's configured alias points to whenever it has moved; never returns.

    A refused model is not retried until the alias moves, and a model that an operator promotes stays until then.
    `resolve` returns what the alias points to, or raises ValueError or OSError; it is called in a thread.
    """
    seen, last_error = plan.release.followed, ""
    while True:
        await asyncio.sleep(interval_s)
        try:
            uri = await asyncio.to_thread(resolve, plan.configured)
        except (ValueError, OSError) as error:
            # Once, and not at each interval.
            if str(error) != last_error:
                logger.warning("%s: %s; the models stay as they are", plan.configured, error)
            last_error = str(error)
            continue
        last_error = ""
        if uri == seen:
            continue
        try:
            await plan.promote(Slot(uri, uri), followed=uri)
        except BusyError:
            continue
        except RefusedError as error:
            logger.error("%s: refused, the models stay as they are: %s", uri, error)
        seen = uri
