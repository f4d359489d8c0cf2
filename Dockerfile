# One image for every container of docker-compose.yml: Ray head and workers, the MLflow server, the deployment.
FROM python:3.11.15-slim-trixie@sha256:90744cff8f32887f075c47d747a173ff333e9e98801667af93c357fa9f5e28ff

# The user inside owns what it writes into the mounted runs/: build with your own id, as `make image` does.
ARG UID=1000
# For example an index of CPU-only PyTorch wheels; without one pip takes the default build for the platform. It stays
# in the image's history: no place for a password.
ARG PIP_EXTRA_INDEX_URL=

# PYTHONPATH: jobs/ and serve/ are no part of the wheel, and Ray's workers import them by name.
# OMP_NUM_THREADS: threads that outnumber the cores wait for each other in every operation.
# THP_MEM_ALLOC_ENABLE: torch asks for large pages, which int8 weights are read from a fifth faster.
# MLFLOW_SERVER_ENABLE_JOB_EXECUTION: without job runners the server is 2 processes instead of 10.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    OMP_NUM_THREADS=1 \
    THP_MEM_ALLOC_ENABLE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_TRAIN_ENABLE_PRINT_PATCH=0 \
    RAY_TRAIN_ENABLE_STATE_TRACKING=1 \
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5 \
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=30 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

RUN useradd --create-home --uid "$UID" yt8m \
    && mkdir -p /app/runs /data /mlflow \
    && chown -R yt8m /app /mlflow

WORKDIR /app

# Only the dependencies, in a layer of its own: a change of the code does not install 2 GB again.
COPY pyproject.toml constraints.txt /tmp/install/
RUN python -c "import tomllib; print(*tomllib.load(open('/tmp/install/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > /tmp/install/requirements.txt \
    && PIP_EXTRA_INDEX_URL="$PIP_EXTRA_INDEX_URL" pip install --no-cache-dir -c /tmp/install/constraints.txt -r /tmp/install/requirements.txt \
    && rm -r /tmp/install

COPY --chown=yt8m . .

USER yt8m

# What Ray Serve needs to answer through HAProxy, on every node and for every command.
ENTRYPOINT ["sh", "-c", "eval \"$(python -m serve.haproxy.environment)\" && exec \"$@\"", "--"]
