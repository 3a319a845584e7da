# The sidecar, and a Python with DSPy for its workers. docs/deploy.md tells how it is run; `make image-test` builds and runs it.
#
#   docker build -t dspex-sidecar .                    the image: binary, Python, DSPy
#   docker build -t dspex-binary --target sidecar .    the binary alone, to copy from into an image of your own
#
# Both base images are arguments. A base for Python needs `python3` with `venv`, 3.11 or newer, the same in both its stages.
ARG GO_IMAGE=docker.io/library/golang:1.26-bookworm
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${GO_IMAGE} AS binary
# Set by the builder; the toolchain's own architecture where it is not.
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY VERSION ./
COPY cmd cmd
COPY internal internal
COPY pool pool
COPY proxy proxy
COPY wire wire
RUN CGO_ENABLED=0 GOARCH=${TARGETARCH} go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(cat VERSION)" \
    -o /out/dspex-sidecar ./cmd/dspex-sidecar

FROM scratch AS sidecar
COPY --from=binary /out/dspex-sidecar /usr/local/bin/dspex-sidecar
USER 10001:0
ENTRYPOINT ["/usr/local/bin/dspex-sidecar"]
CMD ["serve"]

FROM ${PYTHON_IMAGE} AS python
WORKDIR /src
RUN python3 -m venv /opt/dspex
ENV PATH=/opt/dspex/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN python -m venv build && \
    build/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/build.txt && \
    python -m pip install --no-compile --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY clients/python clients/python
COPY python python
RUN build/bin/python -m pip wheel --no-deps --no-build-isolation -w wheels ./clients/python ./python && \
    python -m pip install --no-compile --no-deps --no-index wheels/*.whl && \
    python -m pip uninstall -y pip setuptools
# Nothing can be written at run time: bytecode is made here, of what a worker imports and no more (all is five times as much).
# Unchecked, since an image's builder may set the files' times anew.
RUN LITELLM_LOCAL_MODEL_COST_MAP=true python -B -c "import sys, dspy, litellm, dspex_worker.zygote, dspex_worker.pool_worker, dspex_worker.dspy_app; \
    print(*sorted(m.__file__ for m in list(sys.modules.values()) if (getattr(m, '__file__', None) or '').endswith('.py')), sep='\n')" \
    | python -m compileall -q -i - --invalidation-mode unchecked-hash

FROM ${PYTHON_IMAGE}
COPY --from=python /opt/dspex /opt/dspex
COPY --from=binary /out/dspex-sidecar /usr/local/bin/dspex-sidecar
# The socket's folder, where no volume is mounted over it. Group 0, which a uid without a passwd entry gets.
RUN mkdir -m 0770 /run/dspex && mkdir /app /etc/dspex
ENV PATH=/opt/dspex/bin:$PATH
USER 10001:0
WORKDIR /app
ENTRYPOINT ["/usr/local/bin/dspex-sidecar"]
CMD ["serve"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["dspex-sidecar", "healthcheck", "--ready"]
