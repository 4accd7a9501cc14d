#!/bin/bash

set -u
ended=0

free_port() {
    python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])'
}

# A run directory, then a command: 2 processes of it. The first one speaks here.
start() {
    local directory="$1" i code failed=0
    shift
    mkdir -p "$directory"
    export JAX_COORDINATOR_ADDRESS="127.0.0.1:$(free_port)" JAX_NUM_PROCESSES=2
    local processes=()
    # Both ask to save and end: what is started with & does not hear Ctrl-C.
    trap 'ended=1; kill -TERM "${processes[@]}" 2>/dev/null' TERM INT
    for ((i = 0; i < 2; i++)); do
        if [ "$i" = 0 ]; then
            JAX_PROCESS_ID=$i JAX_LOCAL_DEVICE_IDS=$i "$@" &
        else
            JAX_PROCESS_ID=$i JAX_LOCAL_DEVICE_IDS=$i "$@" > "$directory/process-$i.log" 2>&1 &
        fi
        processes+=($!)
    done
    for ((i = 0; i < 2; i++)); do
        # The trap ends a wait early: only a process that is gone has a code to tell.
        while wait "${processes[i]}"; code=$?; kill -0 "${processes[i]}" 2>/dev/null; do :; done
        # The least code tells the cause: who lost a peer ends with a greater one.
        if [ "$code" != 0 ] && { [ "$failed" = 0 ] || [ "$code" -lt "$failed" ]; }; then
            failed="$code"
        fi
    done
    trap - TERM INT
    [ "$failed" = 0 ] || echo "$directory: ended with $failed" >&2
    [ "$ended" = 0 ] || exit "$failed"
    [ "$failed" = 0 ] || first="${first:-$failed}"
}

UNIJAX_JOB=ladder-0 start /data/runs/ladder/1b unijax train --config=configs/janus_pro.py:1b,stage2 --run-dir /data/runs/ladder/1b data.rows=256
UNIJAX_JOB=ladder-1 start /data/runs/ladder/7b unijax train --config=configs/janus_pro.py:7b,stage2 --run-dir /data/runs/ladder/7b data.rows=128
exit "${first:-0}"
