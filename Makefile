# The two commands of the README: `make demo` and `make test`.
# Tools are run at pinned versions, so that go.mod holds the product's needs alone.

GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
NFPM = github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

export CGO_ENABLED = 0

.PHONY: build demo test chaos e2e lint generate generate-check fuzz bench deb rpm clean

build: bin/relaygate

# Always asked: the Go tool knows better than make what has changed.
.PHONY: bin/relaygate
bin/relaygate:
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/relaygate

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
# Leaves bin/bench.json, and bin/bench.txt for benchstat.
bench: build
	go run ./cmd/relaygate/internal/bench/run $(if $(FULL),-full)

# bin/relaygate_VERSION_ARCH.deb, bin/relaygate-VERSION-1.ARCH.rpm. Where no tag says a
# version, the last commit does.
PACKAGE_VERSION ?= $(or $(shell git describe --tags 2>/dev/null | sed 's/^v//'),0~git$(shell git show -s --format=%cd.%h --date=format:%Y%m%d))
deb rpm: build
	GOARCH=$$(go env GOARCH) PACKAGE_VERSION='$(PACKAGE_VERSION)' go run $(NFPM) package \
	  --config cmd/relaygate/packaging/nfpm.yaml --packager $@ --target bin/

clean:
	rm -rf bin
