#!/usr/bin/env bash
# Slurm: one machine serves the teacher, the others play and learn.
#     sbatch --nodes 3 examples/launch/slurm.sh --out /shared/run --search http://index:8000
#SBATCH --job-name=ovd
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
set -euo pipefail
MODEL=${MODEL:-Qwen/Qwen2.5-32B-Instruct}
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
TEACHER=${NODES[0]} MAIN=${NODES[1]} LEARNERS=$((${#NODES[@]} - 1))

# The teacher is reached from other machines of the job: --host opens its port to the cluster's network.
srun --nodes 1 --ntasks 1 --nodelist "$TEACHER" ovd serve-model --model "$MODEL" --role teacher \
    --host 0.0.0.0 --port 8100 --tensor-parallel 2 --data-parallel 4 &
until curl --silent --fail --output /dev/null "http://$TEACHER:8100/health"; do sleep 5; done

srun --nodes "$LEARNERS" --ntasks "$LEARNERS" --exclude "$TEACHER" bash -c 'accelerate launch \
    --config_file examples/launch/fsdp2.yaml --num_machines '"$LEARNERS"' --num_processes '"$((8 * LEARNERS))"' \
    --machine_rank "$SLURM_PROCID" --main_process_ip '"$MAIN"' --main_process_port 29500 \
    -m ovd_agent.cli.main train --preset eight-gpus --teacher openai:teacher@http://'"$TEACHER"':8100/v1 "$@"' -- "$@"
kill %1
