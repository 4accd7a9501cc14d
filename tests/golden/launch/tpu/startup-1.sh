#!/bin/bash
# Runs on every machine of the slice, at every start of the machine.
set -eu
mkdir -p /var/lib/unijax
cat > /var/lib/unijax/run.sh << 'END_OF_RUN'
set -e
cd /data/unijax || exit
mount -t nfs 10.0.0.2:/data /data
source .venv/bin/activate
export UNIJAX_JOB=ladder-1
export UNIJAX_DISTRIBUTED=1
exec unijax train --config=configs/janus_pro.py:7b,stage2 --run-dir /data/runs/ladder/7b data.rows=128
END_OF_RUN
cat > /etc/systemd/system/unijax.service << 'END_OF_UNIT'
[Unit]
Description=ladder-1
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=infinity
StartLimitBurst=106

[Service]
ExecStart=/bin/bash /var/lib/unijax/run.sh
Restart=no
RestartForceExitStatus=85 143 SIGTERM 82 83 84 86 134 135 137 SIGABRT SIGBUS SIGKILL
RestartSec=10
TimeoutStopSec=300
KillMode=mixed
END_OF_UNIT
systemctl daemon-reload
systemctl start unijax.service
