# gmos-deploy on a desktop or server GPU with TensorRT, x86-64. Commands: docker/README.md
# The image has Ubuntu 22.04, Python 3.10 with pip, CUDA 12.6 and TensorRT 10.3 with its Python bindings.
FROM nvcr.io/nvidia/tensorrt:24.08-py3
ARG COMMIT=""
WORKDIR /source
COPY . .
RUN if [ -n "$COMMIT" ]; then echo "$COMMIT" > commit.txt; fi
# CUDA 13's bindings do not run on a driver of CUDA 12; onnx-ir is for comparing half-precision engines.
RUN pip install --no-cache-dir '.[cpu]' 'cuda-bindings>=12.8,<13' nvidia-ml-py onnx-ir
RUN python -c "import tensorrt; print(tensorrt.__version__)"
ENV HOME=/tmp XDG_CACHE_HOME=/tmp/cache
USER 1000:1000
WORKDIR /videos
CMD ["gmos-doctor"]
