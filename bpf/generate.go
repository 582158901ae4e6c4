package bpf

// The flags are fixed so that the objects are the same wherever they are made.
// The multiarch folders hold asm/types.h on Debian.
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go@v0.22.0 -tags linux -target bpfel -cc clang -strip llvm-strip -go-package bpf -type event -type packet -type plain -type event_kind -type packet_kind -type reason -type flow_state -type end -type note tap src/tap.c -- -mcpu=v3 -O2 -g -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go@v0.22.0 -tags linux -target bpfel -cc clang -strip llvm-strip -go-package bpf -no-global-types -type function -type machine tls src/tls.c -- -mcpu=v3 -O2 -g -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go@v0.22.0 -tags linux -target bpfel -cc clang -strip llvm-strip -go-package bpf -no-global-types -type verdict -type sweep -type tuple -type wire -type network -type handshakes wire src/wire.c -- -mcpu=v3 -O2 -g -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
