# The exporter: from a checkpoint to a model in a Triton repository. Two targets:
#   docker build -f docker/export.Dockerfile --target export -t tidegate-export:0.1.0 .              .gguf, Hugging Face
#   docker build -f docker/export.Dockerfile --target export-torch -t tidegate-export-torch:0.1.0 .  .pt too

# To pin it to the byte: --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS packages
ENV PIP_CACHE_DIR=/pip-cache
RUN python3 -m venv --without-pip /opt/tidegate/venv
COPY requirements/export.lock /tmp/requirements.lock
RUN --mount=type=cache,target=/pip-cache \
    python3 -m pip --python /opt/tidegate/venv/bin/python install --no-deps --require-hashes --no-compile -r /tmp/requirements.lock \
    && /opt/tidegate/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tidegate/venv/lib

FROM packages AS torch-packages
# An index of torch's builds for the CPU, which suffice and are much smaller: --build-arg TORCH_INDEX=https://…
ARG TORCH_INDEX=
COPY requirements/torch.lock requirements/torch.in /tmp/
# A build for CUDA does not even import without CUDA's libraries: then they are installed too, some gigabytes.
RUN --mount=type=cache,target=/pip-cache \
    pip="python3 -m pip --python /opt/tidegate/venv/bin/python install" \
    && $pip --no-deps --require-hashes -r /tmp/torch.lock \
    && PIP_INDEX_URL="${TORCH_INDEX:-$PIP_INDEX_URL}" $pip --no-deps -r /tmp/torch.in \
    && { /opt/tidegate/venv/bin/python -c "import torch" || $pip -r /tmp/torch.in; }

FROM ${PYTHON_IMAGE} AS source
COPY backends /opt/tidegate/backends
COPY serve /opt/tidegate/serve
# Of the gateway what the command is made of: settings, flags, helps.
COPY gateway/__init__.py gateway/command_line.py gateway/key_commands.py gateway/misspelt.py gateway/setting_table.py gateway/settings.py /opt/tidegate/gateway/
COPY tidegate /opt/tidegate/tidegate
COPY export /opt/tidegate/export
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/tidegate \
    && install -d -o 10001 -g 10001 /opt/tidegate/model_repository

FROM ${PYTHON_IMAGE} AS exporter
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidegate export" \
      org.opencontainers.image.description="Turns a checkpoint into a model that Triton serves" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The working directory is the user's, where relative paths begin. PYTHONSAFEPATH: no code is taken from there.
WORKDIR /checkpoints
ENV PATH=/opt/tidegate/venv/bin:${PATH} \
    PYTHONPATH=/opt/tidegate \
    PYTHONSAFEPATH=1 \
    MODEL_REPOSITORY=/opt/tidegate/model_repository \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 10001:10001
CMD ["python", "-m", "tidegate", "export"]

FROM exporter AS export-torch
COPY --from=torch-packages /opt/tidegate/venv /opt/tidegate/venv
COPY --from=source /opt/tidegate /opt/tidegate

FROM exporter AS export
COPY --from=packages /opt/tidegate/venv /opt/tidegate/venv
COPY --from=source /opt/tidegate /opt/tidegate
