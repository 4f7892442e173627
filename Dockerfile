# An image for CPUs, from a checkout:
#   docker build -t speechbrain-pom .
#   docker run --rm --user "$(id -u)" -v "$PWD:/work" speechbrain-pom transcribe exported/ctc_pom recordings --out transcripts
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --index-url $TORCH_INDEX torch==2.11.0 torchaudio==2.11.0
COPY . /src
RUN pip install --no-cache-dir "/src[serve,scale]"
ENV HOME=/tmp OMP_WAIT_POLICY=PASSIVE
WORKDIR /work
ENTRYPOINT ["speechbrain-pom"]
CMD ["--help"]
