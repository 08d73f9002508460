# gmos-deploy on a Jetson with JetPack 6 (L4T 36.4), aarch64. Commands: docker/README.md
# The image has Ubuntu 22.04, CUDA 12.6, cuDNN and TensorRT 10.3, and the source of NVIDIA's packages for L4T.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-pip python3-libnvinfer \
    && rm -rf /var/lib/apt/lists/*
ARG COMMIT=""
WORKDIR /source
COPY . .
RUN if [ -n "$COMMIT" ]; then echo "$COMMIT" > commit.txt; fi
# Ubuntu's pip is older than what reads pyproject.toml's optional dependencies well.
RUN python3 -m pip install --no-cache-dir --upgrade pip
RUN python3 -m pip install --no-cache-dir '.[cpu]' 'cuda-bindings>=12.8,<13' onnx-ir
RUN python3 -c "import tensorrt; print(tensorrt.__version__)"
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
# Jetson's devices belong to this group.
USER 1000:44
WORKDIR /videos
CMD ["gmos-doctor"]
