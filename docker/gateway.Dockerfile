# The gateway: Python, the packages of requirements/gateway.lock, its own source. No torch, no ONNX Runtime, no Triton.
#   docker build -f docker/gateway.Dockerfile -t tidegate-gateway:0.1.0 .
# It starts with a key of its own alone: MY_API_KEY, MY_API_KEY_FILE or API_KEYS_FILE.

# To pin it to the byte: --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS packages
# An environment of its own, without pip: it is copied whole, whatever the Python is called and wherever it lies.
ENV PIP_CACHE_DIR=/pip-cache
RUN python3 -m venv --without-pip /opt/tidegate/venv
COPY requirements/gateway.lock /tmp/requirements.lock
# Compiled by the content of the sources, not by their time: the same in each build, and nothing is written when it runs.
RUN --mount=type=cache,target=/pip-cache \
    python3 -m pip --python /opt/tidegate/venv/bin/python install --no-deps --require-hashes --no-compile -r /tmp/requirements.lock \
    && /opt/tidegate/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tidegate/venv/lib
COPY gateway /opt/tidegate/gateway
# Of the backend the wire contract alone: numpy, and nothing that computes.
COPY backends/__init__.py /opt/tidegate/backends/
COPY backends/onnx_decoder/__init__.py /opt/tidegate/backends/onnx_decoder/
COPY backends/onnx_decoder/contract /opt/tidegate/backends/onnx_decoder/contract
COPY docker/ready.py /opt/tidegate/
RUN /opt/tidegate/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tidegate/gateway /opt/tidegate/backends

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidegate gateway" \
      org.opencontainers.image.description="Keys, sampling and an OpenAI-compatible API before NVIDIA Triton" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /opt/tidegate/venv /opt/tidegate/venv
COPY --from=packages /opt/tidegate/ready.py /opt/tidegate/
COPY --from=packages /opt/tidegate/backends /opt/tidegate/backends
COPY --from=packages /opt/tidegate/gateway /opt/tidegate/gateway
WORKDIR /opt/tidegate
ENV PATH=/opt/tidegate/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    ALLOW_DEFAULT_KEY=off \
    LOG_FORMAT=json
USER 10001:10001
EXPOSE 5002
HEALTHCHECK --interval=5s --timeout=10s --start-period=5m --retries=3 CMD ["python", "/opt/tidegate/ready.py"]
CMD ["python", "-m", "gateway"]
