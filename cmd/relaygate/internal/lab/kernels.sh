#!/bin/sh
# The demo, and the tests of the packages that speak with the kernel, on other kernels,
# in virtual machines of which nothing stays. A kernel is one of Debian's packages, such
# as linux-image-6.1.0-56-amd64, or a folder that packages were unpacked into
# (dpkg-deb -x). Needs qemu-system-x86, busybox-static, cpio, kmod and xz-utils, no root.
#
# RELAYGATE_ACCEL=kvm is quick where the machine can. The default, tcg, is so slow that
# tests with little time, such as TestChaos of nft, can fail by it. RELAYGATE_RUN chooses
# tests, as go test -run does; "-" means the demo alone.
set -eu

accel=${RELAYGATE_ACCEL:-tcg}
packages="bpf capture/sockdiag capture/tlstap cmd/relaygate/internal/daemon/livetap nft"
[ "${RELAYGATE_RUN:-}" != - ] || packages=

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# guest makes what is the same for all kernels.
guest() {
	mkdir -p "$work/guest/bin" "$work/guest/sbin"
	for folder in dev etc proc root run sys/fs/cgroup tmp; do mkdir -p "$work/guest/$folder"; done
	busybox=$(command -v busybox) && cp "$busybox" "$work/guest/bin/busybox"
	for name in sh cat ip modprobe mount poweroff; do ln -s busybox "$work/guest/bin/$name"; done
	ln -s ../bin/busybox "$work/guest/sbin/modprobe" # where the kernel looks for it
	echo root:x:0:0::/root:/bin/sh >"$work/guest/etc/passwd"
	cp bin/relaygate "$work/guest/bin/"
	if openssl=$(command -v openssl); then # for the demo's login in TLS
		for file in "$openssl" $(ldd "$openssl" | grep -o '/[^ ]*'); do
			install -D "$file" "$work/guest$file"
		done
	fi
	for package in $packages; do
		mkdir -p "$work/guest/root/$package"
		go test -c -o "$work/guest/root/$package/test" "./$package"
		[ ! -d "$package/testdata" ] || cp -r "$package/testdata" "$work/guest/root/$package/"
	done
	cat >"$work/guest/init" <<-EOF
		#!/bin/sh
		export PATH=/bin:/usr/bin HOME=/root NO_COLOR=1
		mount -t proc none /proc
		mount -t sysfs none /sys
		mount -t devtmpfs none /dev
		mount -t cgroup2 none /sys/fs/cgroup
		mount -t securityfs none /sys/kernel/security
		mount -t tmpfs none /tmp
		ip link set lo up
		modprobe tun # the device is there with it
		failed=
		relaygate doctor
		relaygate demo || failed="\$failed demo"
		for package in $packages; do
			echo "== \$package"
			cd /root/\$package
			./test -test.short -test.timeout 60m -test.run '${RELAYGATE_RUN:-}' || failed="\$failed \$package"
		done
		echo "result:\${failed:- all passed}"
		poweroff -f
	EOF
	chmod +x "$work/guest/init"
}

# unpack leaves a kernel's files in $tree.
unpack() {
	tree=$1
	[ ! -d "$1" ] || return 0
	tree=$work/kernel
	rm -rf "$tree" "$work"/*.deb
	(cd "$work" && apt-get -q download "$1" && dpkg-deb -x ./*.deb "$tree")
}

# boot runs the guest on the kernel in $tree.
boot() {
	image=$(find "$tree" -name 'vmlinuz*' -type f)
	modules=$(find "$tree" -path '*lib/modules/*' -name kernel -type d -prune)
	release=$(basename "$(dirname "$modules")")
	root=$work/root
	rm -rf "$root"
	cp -a "$work/guest" "$root"
	mkdir -p "$root/lib/modules/$release"
	# Those of networks and what they use; a sub-shell, as find is told the paths below.
	(cd "$modules" && find net lib crypto arch/*/crypto drivers/net/veth.ko* drivers/net/macvlan.ko* drivers/net/tun.ko* fs/overlayfs -name '*.ko*' |
		cpio -p -d --quiet "$root/lib/modules/$release")
	find "$root/lib/modules" -name '*.xz' -exec xz -d {} +
	depmod -b "$root" "$release" 2>/dev/null # it misses the list of what is built in
	(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"
	qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 3G -display none -nodefaults -no-reboot -serial stdio \
		-kernel "$image" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1" </dev/null | tee "$work/said"
	grep -q '^result: all passed' "$work/said"
}

[ $# -gt 0 ] || { echo "name kernels: make kernels KERNELS='linux-image-6.1.0-56-amd64 …'" >&2; exit 2; }
guest
bad=
for kernel; do
	echo "=== $kernel"
	unpack "$kernel"
	boot || bad="$bad $kernel"
done
[ -z "$bad" ] || { echo "failed on:$bad" >&2; exit 1; }
