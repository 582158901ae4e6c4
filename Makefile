# The two commands of the README: `make demo` and `make test`.
# Tools are run at pinned versions, so that go.mod holds the product's needs alone.

GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
NFPM = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

export CGO_ENABLED = 0

# What `make install`, `make deb` and `make rpm` put where the shells look for it.
COMPLETION = bin/completion

.PHONY: build completion install uninstall demo test chaos e2e kernels lint generate generate-check fuzz bench deb rpm clean

build: bin/relaygate

# Always asked: the Go tool knows better than make what has changed.
.PHONY: bin/relaygate
bin/relaygate:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/relaygate

completion: build
	@mkdir -p $(COMPLETION)
	@set -e; for shell in bash zsh fish; do \
	  bin/relaygate completion $$shell > $(COMPLETION)/$$shell; done

# By hand, beside what a package has its own places for. The configuration that is there
# stays, and nothing is started.
DESTDIR ?=
LOCAL = $(DESTDIR)/usr/local
install: completion
	install -D -t $(DESTDIR)/usr/bin bin/relaygate
	[ -e $(DESTDIR)/etc/relaygate/relaygate.toml ] || install -D -m 644 cmd/relaygate/internal/config/default.toml $(DESTDIR)/etc/relaygate/relaygate.toml
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system cmd/relaygate/packaging/relaygate.service
	install -D -m 644 -t $(LOCAL)/share/man/man8 cmd/relaygate/packaging/relaygate.8
	install -D -m 644 -t $(LOCAL)/share/man/man5 cmd/relaygate/packaging/relaygate.toml.5
	install -D -m 644 $(COMPLETION)/bash $(LOCAL)/share/bash-completion/completions/relaygate
	install -D -m 644 $(COMPLETION)/zsh $(LOCAL)/share/zsh/site-functions/_relaygate
	install -D -m 644 $(COMPLETION)/fish $(LOCAL)/share/fish/vendor_completions.d/relaygate.fish

# What install put there, but the configuration. What runs is stopped before.
uninstall:
	rm -f $(DESTDIR)/usr/bin/relaygate $(DESTDIR)/etc/systemd/system/relaygate.service \
	  $(LOCAL)/share/man/man8/relaygate.8 $(LOCAL)/share/man/man5/relaygate.toml.5 \
	  $(LOCAL)/share/bash-completion/completions/relaygate $(LOCAL)/share/zsh/site-functions/_relaygate \
	  $(LOCAL)/share/fish/vendor_completions.d/relaygate.fish

demo: build
	bin/relaygate demo

test:
	go vet ./...
	go test ./...

# The gate under flushes, deletions, kills, restarts, reloads and orders at
# random, for this long in each of three modes; the tests do it for seconds.
CHAOS ?= 60s
chaos:
	RELAYGATE_CHAOS=$(CHAOS) go test -count=1 -v -timeout 60m -run '^TestChaos$$' ./cmd/relaygate/internal/lab

# Beside real mail servers and proxies, in clear text and over TLS; needs root
# and, for the first time, apt. Quick: make e2e E2E=-short
E2E ?=
e2e:
	cmd/relaygate/internal/e2e/install.sh
	go test -tags e2e -count=1 -v -p 1 -timeout 40m ./cmd/relaygate/internal/e2e/... $(E2E)

# The demo and the kernel's tests on other kernels than this machine's, in virtual
# machines, which are slow. Debian's packages, or folders that they were unpacked into:
# make kernels KERNELS='linux-image-6.1.0-56-amd64 /tmp/linux-5.10'
KERNELS ?=
kernels: build
	cmd/relaygate/internal/lab/kernels.sh $(KERNELS)

lint:
	go run $(GOLANGCI) run --allow-parallel-runners ./...

# Needs clang and llvm-strip; users do not: the objects are committed.
generate:
	go generate ./...

generate-check: generate
	git diff --exit-code -- bpf

# Hostile clients against model servers, and then every fuzz target in turn.
DIALOGUES ?= 500000
FUZZTIME ?= 30s
fuzz:
	RELAYGATE_DIALOGUES=$(DIALOGUES) go test -count=1 -timeout 60m ./authz/imap ./authz/pop3
	@set -e; for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

# The table of goals. FULL=1 takes captures of full size and the slow peers.
# Leaves bin/bench.json, and bin/bench.txt for benchstat: of decoding, flows, dialogues,
# grants and elements, function by function.
bench: build
	go run ./cmd/relaygate/internal/bench/run $(if $(FULL),-full)
	go test -run '^$$' -bench . -benchmem $(if $(FULL),-count 6,-benchtime 100ms) ./authz/... ./capture/... ./nft/... >bin/bench.txt

# bin/relaygate_VERSION_ARCH.deb, bin/relaygate-VERSION-1.ARCH.rpm. Where no tag says a
# version, the last commit does.
PACKAGE_VERSION ?= $(or $(shell git describe --tags 2>/dev/null | sed 's/^v//'),0~git$(shell TZ=UTC git show -s --format=%cd.%h --date=format-local:%Y%m%d%H%M%S))
deb rpm: completion
	GOARCH=$$(go env GOARCH) PACKAGE_VERSION='$(PACKAGE_VERSION)' go run $(NFPM) package \
	  --config cmd/relaygate/packaging/nfpm.yaml --packager $@ --target bin/

clean:
	rm -rf bin
