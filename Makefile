# Two commands do everything on a fresh machine with Rust: `make demo` and `make test`.

CARGO ?= cargo
SHELL := /bin/bash

.PHONY: help demo release test bench deps deps-test deny

help:
	@echo 'make demo   install what is missing, build, and show the main job on this machine'
	@echo 'make test   install what the tests need, build, lint, and run all of them'
	@echo 'make bench  measure beside the peers that are installed'
	@echo 'make release  build target/release/rootling, static where that works'
	@echo 'make deps   install what building needs'

# What building with the default feature `btrfs` needs: libclang for the bindings, the library to link.
# Without it: cargo build --no-default-features
deps:
	@bench/scripts/deps build

deps-test:
	@bench/scripts/deps build test

demo: deps release
	@bench/scripts/demo target/release/rootling

# Static, so that it starts sooner and on any host, where the C library and libbtrfsutil have their archives.
release:
	@$(CARGO) rustc --release --locked --bin rootling -- -C target-feature=+crt-static \
	  || $(CARGO) build --release --locked

# Half of it, or less: make bench BENCH='--part starts --fs ext4'
bench: deps-test release
	@bench/scripts/deps peers
	@$(CARGO) run --release --locked -p rootling-bench -- $(BENCH)

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --quiet cargo-deny
	@$(CARGO) deny --locked check licenses bans sources

test: deps-test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) build --locked --no-default-features
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	$(MAKE) deny
	ROOTLING_REQUIRE=$${ROOTLING_REQUIRE-all} $(CARGO) test --locked --workspace
