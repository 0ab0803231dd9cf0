#!/usr/bin/env bash
# Runs tests/differential.rs on an emulated Cannon Lake (Bochs), which has AVX-512 IFMA even if this machine does not.
#
#   schnorr/tests/on-bochs.sh [CASES [SEED]]        # a quarter of CASES for each tier; 16,000 take a minute or two
#
# Only for Debian 12, whose packages it takes:
#   apt-get install bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio bsdutils
# Bochs 2.7 gives adcx/adox wrong results (the `adx` tier fails there and on no processor), so single claims, which
# the lane tiers leave to it, are computed portably here, and only `ifma` and `avx2` are compared.
set -euo pipefail
cases=${1:-16000} seed=${2:-1}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(pwd)/target/on-bochs
mkdir -p "$work/root/dev" "$work/iso/isolinux"

RUSTFLAGS='--cfg relay_schnorr_scalars="portable"' cargo test --release --target-dir "$work/target" \
  -p relay-schnorr --test differential --no-run
test=$(find "$work/target/release/deps" -name 'differential-*' -executable -type f -printf '%T@ %p\n' | sort -rn | head -1 | cut -d' ' -f2)

cd "$work"
# A root whose init is the test, with the libraries it needs.
cp "$test" root/init
ldd "$test" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "root$(dirname "$library")"
  cp -L "$library" "root$library"
done
[ -e root/dev/console ] || mknod root/dev/console c 5 1
(cd root && find . | cpio -o -H newc --quiet | gzip -1) > iso/isolinux/initrd.gz

if [ ! -e iso/isolinux/vmlinuz ]; then
  kernel=$(apt-cache search --names-only '^linux-image-6\.1.*-cloud-amd64-unsigned$' | cut -d' ' -f1 | sort -V | tail -1)
  apt-get download "$kernel"
  dpkg-deb -x "$kernel"_*.deb kernel
  cp kernel/boot/vmlinuz-* iso/isolinux/vmlinuz
fi
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 iso/isolinux/
# Linux refuses Bochs's XSAVE together with XSAVEC, XSAVES and PKU, and then has no vector registers.
cat > iso/isolinux/isolinux.cfg <<EOF
DEFAULT linux
PROMPT 0
TIMEOUT 1
LABEL linux
  KERNEL vmlinuz
  APPEND initrd=initrd.gz console=ttyS0,115200 loglevel=4 panic=-1 mitigations=off clearcpuid=321,323,515 RELAY_SCHNORR_CASES=$cases RELAY_SCHNORR_SEED=$seed RELAY_SCHNORR_TIERS=ifma,avx2 -- --nocapture
EOF
xorriso -as mkisofs -quiet -o boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table iso
cat > bochsrc <<'EOF'
plugin_ctrl: unmapped=true, biosdev=true, speaker=false, extfpuirq=true, parallel=false, serial=true, e1000=false, ne2k=false, es1370=false, sb16=false, usb_uhci=false
config_interface: textconfig
display_library: term
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei3_cnl, count=1, ips=20000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
ata0-master: type=cdrom, path="boot.iso", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev=serial.log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
log: bochs.log
EOF

rm -f serial.log bochs.pid
echo c > commands # Debian's Bochs is its debugger: go on.
# Bochs needs a terminal and an input that stays open, and ends only on SIGKILL. script(1) starts its child in a session of
# its own, so there are two process groups to end: script's and Bochs's.
TERM=xterm setsid bash -c 'exec script -qfc "$1" /dev/null < <(exec sleep infinity)' _ \
  'echo $$ > bochs.pid; stty rows 30 cols 100; exec bochs-bin -q -rc commands -f bochsrc' > screen.log 2>&1 &
terminal=$!
end() {
  if [ -s bochs.pid ]; then kill -KILL -- "-$(cat bochs.pid)" 2> /dev/null || true; fi
  kill -KILL -- "-$terminal" 2> /dev/null || true
}
trap end EXIT
until grep -qs 'Attempted to kill init' serial.log; do
  sleep 2
  # script(1) can outlive its child.
  alive=$terminal
  if [ -s bochs.pid ]; then alive=$(cat bochs.pid); fi
  kill -0 "$alive" 2> /dev/null || { echo "Bochs stopped; see $work" >&2; exit 1; }
done
grep -aE 'verdicts agree|panicked|assertion|test result' serial.log || true
# The kernel gives the exit status of its first process, when it ends.
grep -aq 'exitcode=0x00000000' serial.log
