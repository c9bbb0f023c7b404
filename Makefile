# cox: one binary, built in two steps, because it carries the container
# runtime's helper programs inside itself.
#
#   make up      build, then start a cluster on this machine
#   make down    stop it and remove every trace
#   make test    every test (those with real containers need root)

GO      ?= go
# The same flags for building and testing, so that the two share Go's cache.
export GOFLAGS = -trimpath -buildvcs=false
# What the kubectl inside says of itself.
KUBECTL = -X k8s.io/component-base/version.gitVersion=v1.36.2+cox \
	-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36
LDFLAGS = -ldflags "-s -w"
HELPERS = cox-containerd cox-shim
ASSETS  = runtime/assets
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export CGO_ENABLED = 0

.PHONY: build helpers test up down deps clean

build: helpers
	$(GO) build -ldflags "-s -w $(KUBECTL)" -o bin/cox ./cmd/cox

# The helpers are packed anew only when one of them changed: Go's own cache
# decides what to compile, and a program's bytes are the same for the same
# source.
helpers:
	@mkdir -p bin/helpers
	$(GO) build $(LDFLAGS) -o bin/helpers/ $(HELPERS:%=./cmd/%) ./cmd/cox-demo
	@cat bin/helpers/* | sha256sum > bin/.helpers.new; \
	if ! cmp -s bin/.helpers.new bin/.helpers || [ $$(ls $(ASSETS) | wc -l) -lt 4 ]; then \
		$(GO) run ./internal/mkassets -out $(ASSETS) -demo bin/helpers/cox-demo $(HELPERS:%=bin/helpers/%) && \
		mv bin/.helpers.new bin/.helpers; \
	fi

deps:
	@PATH=$$PATH:/usr/sbin:/sbin; command -v runc >/dev/null || command -v crun >/dev/null || \
		{ $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends runc; }

up: deps build
	$(SUDO) ./bin/cox up

down:
	$(SUDO) ./bin/cox down --purge

test: deps build
	$(GO) vet ./...
	$(GO) test -timeout 20m ./...

clean:
	rm -rf bin
	find $(ASSETS) -type f ! -name README -delete
