# Everything a clone needs; `make` alone lists the targets. Rust comes from https://rustup.rs, the rest from tools/packages.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Targets run one after the other; each of them uses all cores by itself.
.NOTPARALLEL:
# Where the lines below look, whatever cargo's own configuration says.
export CARGO_TARGET_DIR := $(CURDIR)/target
# A registry that is busy for a moment is no failure.
export CARGO_NET_RETRY ?= 10
MAKEFLAGS += --no-print-directory
say = @printf '\n\033[1m== %s\033[0m\n' "$(1)"
ifneq ($(NO_COLOR)$(CI),)
say = @printf '\n== %s\n' "$(1)"
endif

.PHONY: help demo test build bench lint packages-build packages-demo packages-test packages-bench

help: ## Lists the targets
	@echo 'Cloakroom: shared, locked PHP sessions behind any load balancer.'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  make demo STORE=redis   the same with Redis instead of a directory'
	@echo '  make demo KEEP=1        leaves the demo running and prints its URL'
	@echo '  make bench QUICK=1      fewer rounds'

demo: packages-demo ## A visitor walks from server to server and stays logged in, and one server dies
	$(call say,Building the extension and the demo)
	@cargo build -p cloakroom-php
	@cargo build -p testbed --no-default-features --bin demo
	@STORE='$(STORE)' KEEP='$(KEEP)' target/debug/demo target/debug/libcloakroom_php.so

build: packages-build ## build/cloakroom.so and build/cloakroom, with its man pages and completions
	$(call say,Building the extension and the command for release)
	@cargo build --release -p cloakroom-php -p cloakroom-cli
	@mkdir -p build
	@install -m 0755 target/release/libcloakroom_php.so build/cloakroom.so
	@install -m 0755 target/release/cloakroom build/cloakroom
	@build/cloakroom man --out build/man
	@mkdir -p build/completions
	@build/cloakroom completions bash >build/completions/cloakroom.bash
	@build/cloakroom completions zsh >build/completions/_cloakroom
	@build/cloakroom completions fish >build/completions/cloakroom.fish
	@ls -lh build/cloakroom.so build/cloakroom | awk '{ print "  " $$9 "  " $$5 }'

lint: packages-build ## Formatting, clippy, licences and banned crates
	$(call say,Checking the formatting)
	@cargo fmt --all --check
	$(call say,Checking with clippy)
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(call say,Checking the builds for threaded PHP and for PHP 8.4)
	@CLOAKROOM_PHP_API=20220829-zts cargo clippy --quiet -p cloakroom-php -- -D warnings
	@CLOAKROOM_PHP_API=20240924-zts-debug cargo clippy --quiet -p cloakroom-php -- -D warnings
	$(call say,Checking the builds without some of the stores)
	@cargo clippy --quiet -p cloakroom-php --no-default-features -- -D warnings
	@cargo test --quiet -p cloakroom --no-default-features --features files --lib stores::
	$(call say,Checking the documentation of the library)
	@RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps -p cloakroom
	$(call say,Checking licences and dependencies)
	@tools/deny

test: packages-test lint build ## Installs what is missing, checks, builds, and runs every test
	$(call say,Building phpredis 6 for the tests of mixed fleets)
	@tools/phpredis6
	$(call say,Fetching Valkey and Redis 6.2)
	@tools/valkey
	$(call say,Fetching dynalite and DynamoDBLocal)
	@tools/dynamodb
	$(call say,Running the tests)
	@CLOAKROOM_SO='$(CURDIR)/build/cloakroom.so' tools/test

bench: packages-bench build ## Compares with the native handlers; table, JSON and chart under build/bench/
	$(call say,Fetching dynalite and DynamoDBLocal)
	@tools/dynamodb
	$(call say,Building the bench)
	@cargo build --release -p testbed --bin bench
	@CLOAKROOM_SO='$(CURDIR)/build/cloakroom.so' QUICK='$(QUICK)' target/release/bench

packages-build packages-demo packages-test packages-bench: packages-%:
	$(call say,Looking for what is missing to $*)
	@tools/packages $*
