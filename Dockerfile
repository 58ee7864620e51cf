# The server of `tima serve` on a CPU.
#   docker build -t tima .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/runs:/runs:ro" tima
# compose.yaml adds what a longer-lived server wants: a read-only file system, no capabilities, a bound on memory.
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tima
ENV PATH=/opt/tima/bin:$PATH
# first and alone, from PyTorch's index of CPU builds (https://pytorch.org/get-started/locally/): a tenth of the usual size,
# and kept as a layer of its own while the source changes
RUN pip install torch --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install ".[serve]"

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home tima && mkdir /runs
COPY --from=build /opt/tima /opt/tima
# matplotlib wants a place to write, and the only one in a read-only container is /tmp
ENV PATH=/opt/tima/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib HF_HUB_OFFLINE=1
USER 10001
WORKDIR /home/tima
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["tima", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--runs", "/runs"]
