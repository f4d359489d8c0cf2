"""A service that follows an alias of MLflow: when the alias moves, its model is promoted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serve.release.plan import BusyError, RefusedError, ReleasePlan, Slot

logger = logging.getLogger("ray.serve.yt8m")


async def follow_alias(plan: ReleasePlan, resolve: Callable[[str], str], interval_s: float) -> None:
    """Promotes what the plan's configured alias points to whenever it has moved, for good.

    What was refused is not tried again until the alias moves; what an operator promotes stays until then too.

    Args:
        plan: Of an alias.
        resolve: Returns what it points to, or raises ValueError or OSError; called in a thread.
        interval_s: How often.
    """
    seen, complaint = plan.release.followed, ""
    while True:
        await asyncio.sleep(interval_s)
        try:
            uri = await asyncio.to_thread(resolve, plan.configured)
        except (ValueError, OSError) as error:
            if str(error) != complaint:  # once, and not at each interval
                logger.warning("%s: %s; the models stay as they are", plan.configured, error)
            complaint = str(error)
            continue
        complaint = ""
        if uri == seen:
            continue
        try:
            await plan.promote(Slot(uri, uri), followed=uri)
        except BusyError:
            continue
        except RefusedError as error:
            logger.error("%s: refused, the models stay as they are: %s", uri, error)
        seen = uri
