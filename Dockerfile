# The image of one foldstream process: `foldstream worker` by default, any other command by name.
# Versions are requirements.txt's, each held to its hash; wheels only, so no compiler is needed.
# faust-streaming has no wheel for arm64: the image is built for linux/amd64.

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
COPY requirements.txt requirements-build.txt /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-compile --require-hashes --only-binary :all: -r /requirements.txt
# What makes our wheel stays out of the image.
RUN python -m venv /tools \
    && /tools/bin/pip install --require-hashes --only-binary :all: -r /requirements-build.txt
COPY pyproject.toml README.md /src/
COPY streams /src/streams
COPY profiles /src/profiles
COPY agents /src/agents
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src \
    && /venv/bin/pip install --no-compile --no-deps --no-index /dist/foldstream-*.whl


FROM python:3.12-slim
RUN groupadd --system --gid 10001 foldstream \
    && useradd --system --uid 10001 --gid foldstream --no-create-home foldstream \
    && install -d -o foldstream -g foldstream /var/lib/foldstream /var/cache/foldstream
COPY --from=build /venv /venv

# NUMBA_CACHE_DIR: the code belongs to root, so compiled kernels need a place of their own.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/cache/foldstream \
    FOLDSTREAM_CACHE=/var/cache/foldstream \
    FOLDSTREAM_DATA_DIR=/var/lib/foldstream

USER foldstream
# A configuration file goes here: a command looks for foldstream.toml where it is started.
WORKDIR /app
# Compiled here for the processor that builds; on another one the worker compiles again at start.
RUN foldstream warmup

LABEL org.opencontainers.image.title="foldstream" \
    org.opencontainers.image.description="Live profiles of shoppers from Kafka, kept in Redis"

# The port that docker-compose.yml sets; without FOLDSTREAM_PORT a worker takes any free one.
EXPOSE 8080
VOLUME /var/lib/foldstream
ENTRYPOINT ["foldstream"]
CMD ["worker"]
