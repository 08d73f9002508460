# gmos-deploy on a processor: ONNX Runtime, no PyTorch. Commands: docker/README.md
FROM python:3.12-slim AS wheel
ARG COMMIT=""
WORKDIR /source
COPY . .
RUN if [ -n "$COMMIT" ]; then echo "$COMMIT" > commit.txt; fi
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(echo /wheels/gmos_deploy-*.whl)[cpu]"
# Any user may run it: the nano model's bundle and other caches go here.
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
USER 1000:1000
WORKDIR /videos
CMD ["gmos-run", "--help"]
