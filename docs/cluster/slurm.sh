#!/bin/bash
# One study on four hosts of eight GPUs: sbatch slurm.sh
# Each array task is a host. Tasks may start at any time, and one that was lost is queued again.
#SBATCH --job-name=sensitivity
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=sensitivity-%A-%a.log

set -euo pipefail

# The URL of the database, with its password, lies in a file that only you can read (chmod 600).
SENSITIVITY_STORAGE="$(< "$HOME/.sensitivity-storage")"
export SENSITIVITY_STORAGE

# A folder that all hosts see: references and text encodings are made once, models are read once.
export XDG_CACHE_HOME="${SENSITIVITY_CACHE:-$HOME/.cache}"

# srun passes Slurm's SIGTERM on, so that the search gives its work back before the job is killed.
exec srun torchrun --standalone --nproc-per-node gpu \
    -m sensitivity search --model flux1-dev --budget 400
