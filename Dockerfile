# siamese-diffusion for a CPU (the default) or for CUDA:
#   docker build -t siamese-diffusion .
#   docker build -t siamese-diffusion:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" siamese-diffusion run --data /work/DATA --out /work/JOB
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" --user "$(id -u):$(id -g)" siamese-diffusion:cuda demo --out /work/demo
# The wheels of PyTorch bring CUDA's libraries; the host needs NVIDIA's driver and container toolkit alone.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
COPY pyproject.toml MANIFEST.in README.md LICENSE CHANGELOG.md CITATION.cff CONTRIBUTING.md /source/
COPY src /source/src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras that are wanted besides: clinical (DICOM, NIfTI), metrics (FID, LPIPS), export (ONNX), tensorboard, imagenet.
ARG EXTRAS=clinical,metrics,tensorboard,imagenet
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" torch torchvision \
    && pip install --no-cache-dir "$(ls /wheels/siamese_diffusion-*.whl)[${EXTRAS}]" \
    && rm -r /wheels \
    && siamese-diffusion --version
# Whoever runs it owns what it writes; weights from the hub are kept where HF_HOME is mounted.
RUN useradd --create-home user && mkdir /work && chown user /work
ENV HF_HOME=/work/.huggingface \
    TORCH_HOME=/work/.torch \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1
USER user
WORKDIR /work
ENTRYPOINT ["siamese-diffusion"]
CMD ["--help"]
