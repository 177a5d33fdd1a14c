#!/usr/bin/env bash
# Trains on a TPU slice: asks for it, runs the same command on all of its hosts, and asks again where it was taken away.
#
#     BUCKET=gs://my-bucket CODE=https://github.com/me/wan_jax ZONE=us-east5-b notebooks/launch_slice.sh
#
# The model has to be in $BUCKET/models and the dataset in $BUCKET/data; checkpoints go to $BUCKET/runs.  DRY_RUN=1
# prints the commands and runs none.  Nobody has run this on a slice yet.
set -euo pipefail
: "${BUCKET:?name a bucket, such as gs://my-bucket}" "${CODE:?name the repository to clone}" "${ZONE:?such as us-east5-b}"
NAME=${NAME:-wan}
TYPE=${TYPE:-v6e-256}
RUNTIME=${RUNTIME:-v2-alpha-tpuv6e} # v5p-128: v2-alpha-tpuv5; v5litepod-64: v2-alpha-tpuv5-lite
RECIPE=${RECIPE:-train_wan22_t2v_high}
BASE=${BASE:-$BUCKET/models/wan21}
MESH=${MESH:-data=8,fsdp=4,context=8}
PAUSE=${PAUSE:-60} # seconds between two questions

install="[ -d wan_jax ] || git clone --depth 1 $CODE wan_jax; cd wan_jax && pip install --quiet '.[tpu]' gcsfs"
train="python -m wan_jax train --config $RECIPE base=$BASE data=$BUCKET/data out=$BUCKET/runs mesh=$MESH --stopped-status 75"

do_it() { echo "+ ${*@Q}" >&2 && [ -n "${DRY_RUN:-}" ] || "$@"; }
ask() { do_it gcloud compute tpus queued-resources "$@" --zone "$ZONE"; }
state() { if [ -n "${DRY_RUN:-}" ]; then echo ACTIVE; else ask describe "$NAME" --format "value(state.state)"; fi; }

wait_for_slice() {
    while true; do
        case $(state) in
        ACTIVE) return ;;
        FAILED) echo "$NAME: the request failed" >&2 && exit 1 ;;
        esac
        sleep "$PAUSE"
    done
}

while true; do
    ask create "$NAME" --node-id "$NAME" --accelerator-type "$TYPE" --runtime-version "$RUNTIME" --spot
    wait_for_slice
    # Every host runs the same command; what is done already is in the bucket.
    if do_it gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker all --command "$install && $train"; then
        break
    elif [ "$(state)" = ACTIVE ]; then
        echo "$NAME: the command failed, and not because the slice was taken away; delete it when you are done" >&2
        exit 1
    fi
    ask delete "$NAME" --force --quiet
done
ask delete "$NAME" --force --quiet
