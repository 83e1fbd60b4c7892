#!/usr/bin/env bash
# Two machines with eight GPUs each: all sixteen play and learn, sharded; the teacher is elsewhere.
# Run it on both, with the same MAIN and TEACHER, and RANK=0 on the machine that MAIN names, RANK=1 on the other.
#     MAIN=10.0.0.1 RANK=0 TEACHER=openai:teacher@http://10.0.0.9:8100/v1 examples/launch/two_nodes.sh --out /shared/run
# --out must be a folder that both see.
set -euo pipefail
: "${MAIN:?address of the first machine}" "${RANK:?0 or 1}" "${TEACHER:?openai:MODEL@URL}"

accelerate launch --config_file "$(dirname "$0")/fsdp2.yaml" --num_machines 2 --num_processes 16 \
    --machine_rank "$RANK" --main_process_ip "$MAIN" --main_process_port "${PORT:-29500}" \
    -m ovd_agent.cli.main train --preset eight-gpus --teacher "$TEACHER" "$@"
