#!/bin/sh
# The first process of a machine: runs $DIRECTORY/job.sh as root, and halts.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
for scratch in /run /mnt /var/lib/nfs; do mount -t tmpfs scratch $scratch; done
mkdir /mnt/host
mount -t hostfs none /mnt/host -o "$DIRECTORY"
cd /mnt/host
sh job.sh >log 2>&1
echo $? >status
halt -f -p
