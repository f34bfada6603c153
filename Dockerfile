# The image of one foldstream process: `foldstream worker` by default, any other command by name.
# Versions are requirements.txt's, each held to its hash; wheels only, so no compiler is needed.
# faust-streaming has no wheel for arm64: the image is built for linux/amd64.

FROM python:3.12-slim AS build
COPY requirements.txt /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-compile --disable-pip-version-check \
        --require-hashes --only-binary :all: -r /requirements.txt


FROM python:3.12-slim
RUN groupadd --system --gid 10001 foldstream \
    && useradd --system --uid 10001 --gid foldstream --no-create-home foldstream \
    && install -d -o foldstream -g foldstream /var/lib/foldstream /var/cache/foldstream
COPY --from=build /venv /venv
WORKDIR /app
COPY streams streams
COPY profiles profiles
COPY agents agents
COPY --chmod=0755 ops/foldstream.sh /usr/local/bin/foldstream

# NUMBA_CACHE_DIR: the sources belong to root, so compiled kernels need a place of their own.
# PYTHONPATH: the project is run from its sources; `foldstream` works in any directory.
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/cache/foldstream \
    FOLDSTREAM_CACHE=/var/cache/foldstream \
    FOLDSTREAM_DATA_DIR=/var/lib/foldstream

USER foldstream
# Compiled here for the processor that builds; on another one the worker compiles again at start.
RUN foldstream warmup

LABEL org.opencontainers.image.title="foldstream" \
    org.opencontainers.image.description="Live profiles of shoppers from Kafka, kept in Redis"

# The port that docker-compose.yml sets; without FOLDSTREAM_PORT a worker takes any free one.
EXPOSE 8080
VOLUME /var/lib/foldstream
ENTRYPOINT ["foldstream"]
CMD ["worker"]
