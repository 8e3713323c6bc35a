# NVIDIA's Triton with our backend, and ONNX Runtime for the same CUDA.
#   docker build -f docker/triton.Dockerfile -t tidegate-triton:0.1.0 .
#   docker build -f docker/triton.Dockerfile --build-arg ONNXRUNTIME=triton -t tidegate-triton:0.1.0-cpu .

# Its Python is 3.12, its CUDA is 13. To pin it to the byte: --build-arg TRITON_IMAGE=…@sha256:…
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.10-py3

FROM ${TRITON_IMAGE} AS packages
# Which lock of requirements/: `triton-gpu` or `triton`, for machines without a GPU.
ARG ONNXRUNTIME=triton-gpu
# Triton's Python takes the packages of the first python3 in PATH: an environment of our own leaves those of the image alone.
ENV PIP_CACHE_DIR=/pip-cache
RUN python3 -m venv --without-pip /opt/tidegate/venv
COPY requirements/${ONNXRUNTIME}.lock /tmp/requirements.lock
RUN --mount=type=cache,target=/pip-cache \
    python3 -m pip --python /opt/tidegate/venv/bin/python install --no-deps --require-hashes --no-compile -r /tmp/requirements.lock \
    && /opt/tidegate/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tidegate/venv/lib
COPY docker/run.py docker/step.py /opt/tidegate/
COPY serve/__init__.py serve/process_guard.py serve/processes.py serve/repository_view.py /opt/tidegate/serve/
COPY backends/onnx_decoder /opt/tidegate/onnx_decoder
RUN /opt/tidegate/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tidegate/serve /opt/tidegate/onnx_decoder \
    && install -d -o 10001 -g 10001 /models

FROM ${TRITON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tidegate Triton" \
      org.opencontainers.image.description="NVIDIA Triton with Tidegate's backend onnx_decoder" \
      org.opencontainers.image.licenses="Apache-2.0 and those of NVIDIA's image" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=packages /models /models
COPY --from=packages /opt/tidegate/venv /opt/tidegate/venv
COPY --from=packages /opt/tidegate/run.py /opt/tidegate/step.py /opt/tidegate/
COPY --from=packages /opt/tidegate/serve /opt/tidegate/serve
COPY --from=packages /opt/tidegate/onnx_decoder /opt/tritonserver/backends/onnx_decoder
# Not where our files lie: Triton's Python looks for modules in the working directory too.
WORKDIR /
ENV PATH=/opt/tidegate/venv/bin:/opt/tritonserver/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
USER 10001:10001
# gRPC, which the gateways speak, and metrics
EXPOSE 8001 8002
HEALTHCHECK --interval=5s --timeout=15s --start-period=10m --retries=3 CMD ["python", "/opt/tidegate/step.py"]
# The entry point stays NVIDIA's: it makes the image's CUDA fit the driver of the machine.
CMD ["python", "/opt/tidegate/run.py"]
