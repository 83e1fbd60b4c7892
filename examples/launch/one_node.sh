#!/usr/bin/env bash
# One machine with eight GPUs: six serve the teacher, which scores and demonstrates; two play and learn.
#     examples/launch/one_node.sh --search my_index --env.tasks train.jsonl --eval-tasks held_out.jsonl
set -euo pipefail
TEACHER=${TEACHER:-Qwen/Qwen2.5-14B-Instruct}
PORT=${PORT:-8100}

CUDA_VISIBLE_DEVICES=2,3,4,5,6,7 ovd serve-model --model "$TEACHER" --role teacher --port "$PORT" --data-parallel 6 &
trap 'kill %1' EXIT
until curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/health"; do sleep 5; done

CUDA_VISIBLE_DEVICES=0,1 accelerate launch --config_file "$(dirname "$0")/ddp.yaml" --num_processes 2 \
    -m ovd_agent.cli.main train --preset eight-gpus --teacher "openai:teacher@http://127.0.0.1:$PORT/v1" "$@"
