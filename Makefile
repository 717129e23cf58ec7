# The README's two commands are `make demo` and `make test`; both install what they
# need.

SHELL := /bin/bash
.DEFAULT_GOAL := build

CARGO ?= cargo
# Static: the dynamic loader would cost a quarter of a millisecond on every command.
# With an explicit target, because cargo would otherwise build procedural macros
# with the same flags, and a static macro cannot be loaded.
TARGET = $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
STATIC = RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
	$(CARGO) build --locked --target $(TARGET) --target-dir target/static
BINARY = $(CURDIR)/target/static/$(TARGET)/release/frostlock
FROSTCTL = $(CURDIR)/target/static/$(TARGET)/tool/frostctl
# Most kernels let SCHED_RR into a cgroup; for one that refuses, the targets that
# need it say so.
TEST = FROSTLOCK_BIN=$(BINARY) scripts/with-realtime $(CARGO) test --locked

.PHONY: build
build: wrapper setup-build
	$(STATIC) --profile tool --package frostctl

# The tests run frostlock as it is installed, because they measure it. They run
# frostctl as cargo builds it, which saves two minutes.
.PHONY: wrapper
wrapper: setup-compiler
	$(STATIC) --release --package frostlock

.PHONY: print-binary
print-binary:
	@echo $(BINARY)

.PHONY: print-frostctl
print-frostctl:
	@echo $(FROSTCTL)

PREFIX ?= /usr/local
bindir = $(DESTDIR)$(PREFIX)/bin
share = $(DESTDIR)$(PREFIX)/share

# `install` under a temporary name, then `mv`: a running program is not overwritten.
.PHONY: install
install:
	@test -x $(BINARY) -a -x $(FROSTCTL) || { echo 'nothing to install, try: make build' >&2; exit 1; }
	install -d "$(bindir)" "$(share)/bash-completion/completions" \
		"$(share)/zsh/site-functions" "$(share)/fish/vendor_completions.d"
	for program in $(BINARY) $(FROSTCTL); do \
		name=$$(basename $$program); \
		install -m 755 $$program "$(bindir)/.$$name.new" && mv -f "$(bindir)/.$$name.new" "$(bindir)/$$name" || exit 1; \
	done
	$(FROSTCTL) man "$(share)/man"
	$(FROSTCTL) completions bash >"$(share)/bash-completion/completions/frostctl"
	$(FROSTCTL) completions zsh >"$(share)/zsh/site-functions/_frostctl"
	$(FROSTCTL) completions fish >"$(share)/fish/vendor_completions.d/frostctl.fish"

# Packages, images and checksums for amd64 and arm64, in target/dist: docs/development.md.
.PHONY: dist
dist: setup-dist
	scripts/dist $(ARCH)

# Builds everything twice, here and in a clone in another place, and compares the
# bytes.
.PHONY: dist-check
dist-check: setup-dist
	scripts/dist-check $(ARCH)

# The packages in Debian 12 and 13, and under running containers:
# docs/proof/dist.txt.
.PHONY: dist-test
dist-test: setup-dist lab
	scripts/with-realtime scripts/dist-test

.PHONY: setup-dist
setup-dist: setup-build
	@scripts/setup dist

.PHONY: setup-compiler
setup-compiler:
	@scripts/setup compiler

.PHONY: setup-build
setup-build: setup-compiler
	@scripts/setup build

.PHONY: lab
lab: setup-build
	@scripts/setup lab
	@scripts/fetch-runtimes target/lab
	@scripts/make-versions target/lab runc-1.5
	@scripts/make-rootfs target/lab/rootfs
	@scripts/make-image target/lab
	@scripts/make-node target/lab/node

# With the host's runc and no lab, if there is no lab.
.PHONY: demo
demo: wrapper
	@scripts/setup demo
	@FROSTLOCK=$(BINARY) scripts/demo
	@FROSTLOCK=$(BINARY) scripts/demo-at-once

# Failures are repeated at the end, where people first look in a long log. So are
# the tests that need cgroup v1, on a host that has none.
NOT_RUN = $(CURDIR)/target/not-run
RUNNER = CARGO_TARGET_$(shell echo $(TARGET) | tr a-z- A-Z_)_RUNNER=$(CURDIR)/scripts/run-suite
.PHONY: test
test: wrapper lab check fuzz-short v2-short
	@set -o pipefail; rm -f $(NOT_RUN); status=0; \
	export $(RUNNER) FROSTLOCK_NOT_RUN=$(NOT_RUN); \
	$(TEST) --workspace --no-fail-fast 2>&1 | tee target/test.log || { \
		status=1; \
		printf '\nthe failures once more:\n'; \
		grep -A 6 'panicked at' target/test.log | grep -vE '^ +[0-9]+: |^ +at |stack backtrace'; \
		awk '/^test result:/ { passed += $$4; failed += $$6 } \
			END { printf "%d passed, %d failed\n", passed, failed }' target/test.log; }; \
	[ ! -s $(NOT_RUN) ] || { \
		printf '\nnot run here, as they need cgroup v1 (tests/needs-v1 says why):\n'; sort $(NOT_RUN); }; \
	exit $$status

# If the tests see v2 themselves, a second run adds nothing.
.PHONY: v2-short
v2-short: wrapper lab
	@grep -qsw cpu /sys/fs/cgroup/cgroup.controllers || $(MAKE) --no-print-directory vm-short

# Functions on cgroup v2 in User-Mode Linux, for a host with v1; its times mean
# nothing.
.PHONY: vm-short
vm-short: wrapper lab
	@scripts/setup uml
	@FROSTLOCK_BIN=$(BINARY) scripts/uml-test $(SUITES)

# Only the runtime, inside a node with systemd.
.PHONY: node-test
node-test: wrapper lab
	$(TEST) --test node

# Every containerd with every runc that fails, bare and wrapped: a container in a
# pod starts and ends.
.PHONY: node-matrix
node-matrix: wrapper lab
	@scripts/make-versions target/lab
	@FROSTLOCK_BIN=$(BINARY) scripts/node-matrix

# The Go that `make lab` has fetched, if the system's own is too old; it fetches the
# newer one that a module needs.
WITH_GO = PATH=$(CURDIR)/target/lab/go/bin:$$PATH GOTOOLCHAIN=auto

# A real CRI-O, built from its Go module; not part of `make test`.
.PHONY: crio-test
crio-test: build lab
	@scripts/setup crio
	@$(WITH_GO) scripts/make-crio
	FROSTCTL_BIN=$(FROSTCTL) $(TEST) -p frostctl --test configure -- crio:: --ignored --nocapture

# The Helm chart, rendered and checked by a helm built from its Go module; not part
# of `make test`.
.PHONY: chart-test
chart-test: setup-build lab
	@scripts/setup lab helm
	@$(WITH_GO) scripts/make-helm
	$(CARGO) test --locked -p frostctl --test deploy -- --include-ignored

# A real cluster of one node, bare and with frostlock: under 40 minutes once its
# programs are built.
.PHONY: kube-test
kube-test: wrapper lab kube
	@FROSTLOCK_BIN=$(BINARY) scripts/with-realtime scripts/kube-test $(SIDES)

# The Helm chart on that cluster, with an image of what is built here.
.PHONY: kube-chart-test
kube-chart-test: build lab kube
	@scripts/setup helm
	@$(WITH_GO) scripts/make-helm
	$(STATIC) --profile tool --package frostlock-installer
	@FROSTLOCK_BIN=$(BINARY) FROSTCTL_BIN=$(FROSTCTL) INSTALLER_BIN=$(dir $(FROSTCTL))frostlock-installer \
		scripts/with-realtime scripts/kube-test chart

.PHONY: kube
kube: setup-build
	@scripts/setup kube
	@[ -n "$(KUBE_BIN)" ] || $(WITH_GO) scripts/make-kube
	$(CARGO) build --quiet --locked --package kube-storm

# cgroup v2 with a kernel of Debian, emulated; not part of `make test`.
#
#   make vm-test KERNEL=trixie CPUS=16    6.12 instead of 6.1 of bookworm; or sid
KERNEL = bookworm
CPUS = 2
.PHONY: vm-test
vm-test: wrapper lab
	@scripts/setup vm
	@scripts/make-vm $(VM_IMAGE) $(KERNEL)
	@FROSTLOCK_BIN=$(BINARY) FROSTLOCK_VM_IMAGE=$(VM_IMAGE) FROSTLOCK_VM_CPUS=$(CPUS) scripts/vm-test $(SUITES)

VM_IMAGE = target/lab/vm$(if $(filter-out bookworm,$(KERNEL)),-$(KERNEL))

# The counts that the documents claim; the results go to docs/proof/. Only one: make
# proof SUITES=death
.PHONY: proof
proof: build lab
	@FROSTLOCK_BIN=$(BINARY) FROSTCTL_BIN=$(FROSTCTL) scripts/with-realtime scripts/proof $(SUITES)

# Each target for a given time; the results of one run are in docs/proof/fuzz.md.
FUZZ_SECONDS ?= 600
.PHONY: fuzz
fuzz:
	@scripts/setup compiler build fuzz
	scripts/fuzz all $(FUZZ_SECONDS)

# A minute for all targets together, from the known inputs: part of `make test`.
FUZZ_SHORT_SECONDS ?= 60
.PHONY: fuzz-short
fuzz-short:
	@scripts/setup compiler build fuzz
	scripts/fuzz total $(FUZZ_SHORT_SECONDS)

.PHONY: check
check: setup-build
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	shellcheck $$(scripts/list-scripts)
	scripts/deny

# Known vulnerabilities in our dependencies. Not part of `check`, because the
# database is fetched from GitHub each time. A machine that cannot reach GitHub
# fails here and has no answer, which is not the answer "none".
CARGO_DENY ?= 0.20.2
.PHONY: advisories
advisories:
	@cargo-deny --version 2>/dev/null | grep -qF $(CARGO_DENY) || \
		$(CARGO) install --locked cargo-deny --version $(CARGO_DENY)
	cargo-deny --workspace check

.PHONY: clean
clean:
	$(CARGO) clean
