# sensitivity in a container.
#
#   docker build -t sensitivity .                                               # CPU
#   docker build -t sensitivity:cuda --build-arg TORCH=cu130 .                  # CUDA 13.0
#   docker run --rm -v "$PWD:/data" sensitivity search --model tiny-flux --budget 50
#   docker run --rm --gpus all -v "$PWD:/data" sensitivity:cuda doctor
#   docker run --rm --gpus all -v "$PWD:/data" --entrypoint torchrun sensitivity:cuda \
#       --standalone --nproc-per-node gpu -m sensitivity search --model flux1-dev --budget 400
#
# /data holds what a run writes and the caches, so that a second run finds them.
FROM python:3.12-slim

# cpu, or a CUDA version as uv names it: cu128, cu130
ARG TORCH=cpu

# torch compiles CPU and Triton code with a C++ compiler
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir uv

COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY sensitivity /src/sensitivity
COPY studies /src/studies
RUN uv pip install --system --no-cache --compile-bytecode --torch-backend "$TORCH" "/src[postgres]" \
 && rm -rf /src

ENV HF_HOME=/data/.cache/huggingface XDG_CACHE_HOME=/data/.cache
WORKDIR /data
ENTRYPOINT ["sensitivity"]
