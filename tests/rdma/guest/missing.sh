#!/bin/sh
# Exit 0: setup.sh and softroce-run can do their work here. Otherwise says on stdout what they lack.
[ "$(uname -m)" = x86_64 ] || { echo "the emulated machine is x86-64 and shares this one's programs, which are $(uname -m)"; exit 1; }
command -v apt-get >/dev/null || { echo "its kernel comes from Debian's or Ubuntu's packages (no apt-get)"; exit 1; }
for program in qemu-system-x86_64 busybox cpio modprobe setpriv; do
  PATH=$PATH:/sbin:/usr/sbin command -v "$program" >/dev/null || { echo "$program is not installed (tests/rdma/guest/setup.sh, as root, installs it)"; exit 1; }
done
