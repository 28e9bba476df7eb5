# mailagent: what a newcomer, a developer and a CI run. `make` alone lists it.

SHELL := /bin/sh
.SHELLFLAGS := -euc
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help demo setup test check fault resume chaos sandbox vm bench lock install clean packages environments

# Another active environment would win over .venv in `uv run`.
unexport VIRTUAL_ENV CONDA_PREFIX
# uv trusts its own list of authorities unless told; a company's proxy is known to the system's list only.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= 1
endif
export UV_PYTHON_DOWNLOADS := never
export PIP_BREAK_SYSTEM_PACKAGES := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A Python under /usr: the sandbox sees nothing else of the host, and the daemon's user cannot pass through a home.
PYTHON := $(shell for p in /usr/bin/python3 /usr/local/bin/python3 /usr/bin/python3.1[1-9] /usr/local/bin/python3.1[1-9]; \
	do "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
UV = $(shell for u in uv 'python3 -m uv'; \
	do $$u --version >/dev/null 2>&1 && echo "$$u" && break; done)

# The Debian packages that are missing, each told by the thing that is needed of it.
MISSING = $(shell \
	[ -n "$(PYTHON)" ] || echo python3; \
	[ -n "$(UV)" ] || python3 -c 'import pip' 2>/dev/null || echo python3-pip; \
	command -v bwrap >/dev/null || echo bubblewrap; \
	redis-server --version 2>/dev/null | grep -Eq 'v=([7-9]|[1-9][0-9])\.' || echo redis-server; \
	find /usr/share/fonts -name DejaVuSans.ttf 2>/dev/null | grep -q . || echo fonts-dejavu-core)
MISSING_FOR_TESTS = $(shell \
	[ -x /usr/sbin/dovecot ] || echo dovecot-core; \
	[ -x /usr/lib/dovecot/imap ] || echo dovecot-imapd; \
	[ -x /usr/lib/postfix/sbin/master ] || echo postfix; \
	command -v systemd-analyze >/dev/null || echo systemd)
MISSING_FOR_VM = $(shell \
	command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86; \
	command -v mmdebstrap >/dev/null || echo mmdebstrap; \
	[ -x /usr/sbin/mke2fs ] || echo e2fsprogs; \
	command -v systemctl >/dev/null || echo systemd)
# Tested where it can be had.
MAY_HAVE = $(shell command -v runsc >/dev/null || echo runsc)

# An environment is finished when it holds a stamp named after all that went into it.
key = $(shell { $(PYTHON) -V; cat pyproject.toml $(1); } | sha256sum | cut -c1-16)
DAEMON_READY = .venv/.ready-$(call key,requirements/dev.txt)
ANALYSIS_READY = .analysis/.ready-$(call key,requirements/analysis.txt)

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: setup ## set up, then show the main job: a dataset goes in by mail, an answer comes back
	$(UV) run mailagent demo

setup: ## install what is missing; .venv/bin/mailagent works afterwards
	@$(MAKE) packages NEEDED='$(MISSING)'
	$(MAKE) environments
	command -v uv >/dev/null || echo "uv is not on your PATH: say .venv/bin/mailagent instead of uv run mailagent"

test: ## set up and run every test
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_TESTS)' WANTED='$(MAY_HAVE)'
	$(MAKE) environments
	.venv/bin/python -m pytest tests --ignore=tests/bench --numprocesses 2 --dist loadfile

check: setup ## lint, types, import rules, fast tests: before every commit
	@.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy & types=$$!
	.venv/bin/python -m pytest --quiet --numprocesses 2 tests/unit tests/contracts
	wait $$types

fault: ## set up, send all hostile mail there is, then let the daemon fail at every point in every way
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_TESTS)'
	$(MAKE) environments
	HOSTILE_MAIL=all .venv/bin/python -m pytest tests/fault/test_hostile_mail.py
	.venv/bin/python -m tests.fault.matrix

resume: ## kill agent, sandbox and daemon at every step of a turn, and see the next one go on
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_TESTS)'
	$(MAKE) environments
	RESUME=all .venv/bin/python -m pytest tests/fault/test_resume.py

chaos: ## three daemons, and everything that goes wrong, for ten seeds, or for SEED=; each at most MINUTES=
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_TESTS)'
	$(MAKE) environments
	.venv/bin/python -m tests.fault.chaos '$(SEED)' '$(MINUTES)'

sandbox: ## try to escape from the sandbox and to take too much in it; print both tables
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_TESTS)' WANTED='$(MAY_HAVE)'
	$(MAKE) environments
	good=true
	.venv/bin/python -m tests.fault.escapes || good=false
	.venv/bin/python -m tests.fault.limits || good=false
	GVISOR=all .venv/bin/python -m pytest tests/fault/test_gvisor.py || good=false
	$$good

vm: ## as root: the unit under systemd with control groups, in an emulated Debian; an hour. STEPS= are words of what to try
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_VM)'
	$(MAKE) environments
	.venv/bin/python -m tests.vm $(STEPS)

bench: ## time turns, sessions, long threads, checkpoints, intake, its notice, the queue and the gateway, each beside something plain
	@$(MAKE) packages NEEDED='$(MISSING) $(MISSING_FOR_TESTS)'
	$(MAKE) environments
	.venv/bin/python -m tests.bench.turn
	.venv/bin/python -m tests.bench.session
	.venv/bin/python -m tests.bench.long
	.venv/bin/python -m tests.bench.snapshot
	.venv/bin/python -m tests.bench.intake
	.venv/bin/python -m tests.bench.idle
	.venv/bin/python -m tests.bench.engine
	.venv/bin/python -m tests.bench.sandbox
	.venv/bin/python -m tests.bench.gateway

lock: ## write requirements/*.txt anew; UPGRADE=--upgrade takes newer versions
	@compile="$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header $(UPGRADE)"
	$$compile pyproject.toml --output-file requirements/daemon.txt
	$$compile requirements/dev.in --output-file requirements/dev.txt
	$$compile requirements/analysis.in --output-file requirements/analysis.txt

install: setup ## as root: the daemon in /opt/mailagent and its unit in /etc/systemd/system
	@[ "$$(id -u)" = 0 ] || { echo "make install writes to /opt and /etc: run it as root" >&2; exit 1; }
	$(call environment,/opt/mailagent/venv,requirements/daemon.txt)
	$(UV) pip install --quiet --python /opt/mailagent/venv/bin/python --no-deps --reinstall --compile-bytecode .
	$(call environment,/opt/mailagent/analysis,requirements/analysis.txt)
	$(call fonts,/opt/mailagent/analysis)
	install -D -m 644 systemd/mailagent.service /etc/systemd/system/mailagent.service
	install -D -m 644 systemd/mailagent.sysusers /etc/sysusers.d/mailagent.conf
	install -D -m 644 systemd/mailagent.tmpfiles /etc/tmpfiles.d/mailagent.conf
	systemd-sysusers mailagent.conf
	systemd-tmpfiles --create mailagent.conf
	[ -e /etc/mailagent/mailagent.toml ] || install -m 644 config/mailagent.toml /etc/mailagent/mailagent.toml
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
	echo "Now edit /etc/mailagent/mailagent.toml; docs/operations.md says the rest."

clean: ## remove what these targets made
	rm -rf .venv .analysis .vm demo-out .*_cache .hypothesis
	find mailagent tests skills -name __pycache__ -prune -exec rm -rf {} +

packages:
	@needed='$(strip $(NEEDED))' wanted='$(strip $(WANTED))'
	if [ -n "$$wanted" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		apt-get update -qq || true
		for each in $$wanted; do ! apt-cache show $$each >/dev/null 2>&1 || needed="$$needed $$each"; done
	fi
	[ -n "$$needed" ] || exit 0
	install="apt-get install --yes --no-install-recommends $$needed"
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "mailagent needs Debian packages that are missing. Install them, then run make again:" >&2
		echo "    sudo apt-get update && sudo $$install" >&2
		exit 1
	fi
	echo "installing $$needed"
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1  # RUNLEVEL=1: runlevel(8), sysvinit starts no service
	apt-get update -qq && $$install -qq >/dev/null
	# mailagent starts its own Redis and the tests their own Dovecot; nothing new listens on this machine.
	if [ -d /run/systemd/system ]; then
		case $$needed in *redis-server*) systemctl disable --quiet --now redis-server ;; esac
		case $$needed in *dovecot-core*) systemctl disable --quiet --now dovecot.socket dovecot.service ;; esac
		case $$needed in *postfix*) systemctl disable --quiet --now postfix ;; esac
	fi

environments:
	@if [ -z "$(PYTHON)" ]; then
		echo "mailagent needs Python 3.11 or newer under /usr, readable by every user." >&2
		exit 1
	fi
	umask 022
	[ -n "$(UV)" ] || python3 -m pip install --quiet uv
	$(MAKE) --silent $(DAEMON_READY) $(ANALYSIS_READY)

# A fresh directory only when Python itself changed: a developer's running tests survive a new pin.
define environment
	umask 022
	[ "$$($(1)/bin/python -V 2>/dev/null)" = "$$($(PYTHON) -V)" ] || { rm -rf $(1); $(UV) venv --quiet --python $(PYTHON) $(1); }
	rm -f $(1)/.ready-*
	$(UV) pip sync --quiet --python $(1)/bin/python --require-hashes --compile-bytecode $(2)
endef

# Drawing the first chart would otherwise read every font of the machine, in each sandbox anew.
fonts = MPLCONFIGDIR=$(1)/share/mplcache $(1)/bin/python -c 'import matplotlib.font_manager'

$(DAEMON_READY):
	@echo "installing the daemon and its tests into .venv"
	$(call environment,.venv,requirements/dev.txt)
	$(UV) pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	touch $@

$(ANALYSIS_READY):
	@echo "installing the analysis environment of the sandbox into .analysis"
	$(call environment,.analysis,requirements/analysis.txt)
	$(call fonts,.analysis)
	touch $@
