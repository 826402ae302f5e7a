# The steps are those of scripts/setup.sh; without Docker, run that script instead.
#   docker build -t gsam-imagenet .                                        (torch's wheels bring their own CUDA libraries)
#   docker run --gpus all --ipc=host -v /data/imagenet:/data/imagenet gsam-imagenet python train.py data.root=/data/imagenet
ARG BASE=debian:12
FROM ${BASE}

# --no-cache-dir for every pip call; build time only
ARG PIP_NO_CACHE_DIR=1
WORKDIR /opt/gsam

# What the set-up reads comes first: changing the code does not install everything again.
COPY scripts/setup.sh scripts/
COPY pyproject.toml constraints.txt ./
RUN scripts/setup.sh system && rm -rf /var/lib/apt/lists/*
RUN scripts/setup.sh venv torch
RUN scripts/setup.sh python ffcv

COPY . .
RUN scripts/setup.sh project check
ENV PATH=/opt/gsam/.venv/bin:$PATH
