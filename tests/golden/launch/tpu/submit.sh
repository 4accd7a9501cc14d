#!/bin/bash
set -eu
cd "$(dirname "$0")"
request=(gcloud compute tpus queued-resources)

ask() {  # name of the request, startup script
    local state
    state="$("${request[@]}" describe "$1" --project=my-project --zone=europe-west4-a --format='value(state.state)' 2>/dev/null || :)"
    case "$state" in
    "") ;;
    SUSPENDED | FAILED) "${request[@]}" delete "$1" --project=my-project --zone=europe-west4-a --force --quiet ;;
    *) echo "$1: $state"; return ;;
    esac
    "${request[@]}" create "$1" --project=my-project --zone=europe-west4-a \
        --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e --spot --node-count=2 --node-prefix="$1" \
        --metadata-from-file=startup-script="$2"
}

ask ladder-0 startup-0.sh
ask ladder-1 startup-1.sh
