# Recipes for working on tallyd. `./justw` runs them with nothing installed but Python 3.11 or newer.

set positional-arguments := true

# A container often forbids Python to keep what it compiles. Hundreds of daemons would compile the same files again.
export PYTHONDONTWRITEBYTECODE := ""

way_tests := "tests/integration/test_http_event.py tests/integration/test_whole_way.py tests/fault/test_shutdown.py"
http_tests := "tests/integration/test_http_*.py"

# List the recipes
[private]
default:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted

# Make .venv and install everything named in requirements.lock (quick when nothing changed)
[group('set up')]
setup:
    @ops/python-env

# Run the whole system here until Ctrl-C: servers, ingest, flush (ARGS go to `tallyd dev`)
[group('run')]
dev *ARGS: prepare-dev
    @exec setpriv --pdeathsig TERM -- .venv/bin/tallyd dev "$@"

# Only what it needs: the other recipes complete .venv
[private]
prepare-dev:
    @ops/python-env dev
    @ops/install-servers dev

# Show the dashboard of an invented catalogue, in new servers, until Ctrl-C (ARGS: --hostile, --picture FILE)
[group('run')]
dashboard *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m tests.web.dashboard "$@"

# Run the tests against real servers, installing what is missing (ARGS go to pytest)
[group('check')]
test *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder "$@"

# Run the tests and say how much of the daemons they ran, workers and commands included (ARGS go to pytest)
[group('check')]
coverage *ARGS: setup
    #!/bin/sh
    set -eu
    ops/install-servers test
    export COVERAGE_FILE="$PWD/.coverage" # of all processes, wherever they run
    .venv/bin/coverage erase
    .venv/bin/coverage run -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder "$@"
    .venv/bin/coverage combine --quiet
    .venv/bin/coverage report

# A replica that lacks any part of the stream takes over, 10,000 random orders; every count is compared (an hour)
[group('check')]
property-long *ARGS: setup
    @ops/install-servers test
    @CRASH_EXAMPLES=5000 exec .venv/bin/python -m pytest -p no:benchmark tests/property/test_any_one_crash.py -k "counts_once or stands_still" "$@"

# Kill and freeze everything at random, under load, for minutes; every count is compared (ARGS: --seconds 60, --seed 7)
[group('check')]
chaos *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m tests.chaos "$@"

# Kill Redis again and again under load; it comes back older; every count is compared (ARGS: --rounds 200, --seed 7)
[group('check')]
chaos-cluster *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m tests.chaos.failover "$@"

# 100 nodes in pure Python that fail as they please, for minutes; every count is compared (ARGS: --seconds 60, --seed 7)
[group('check')]
simulate *ARGS: setup
    @exec .venv/bin/python -m tests.simulation "$@"

# Four tabs of Chromium at random while requests fail; every count is compared (ARGS: --seconds 300, --seed 7)
[group('check')]
chaos-web *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m tests.web.chaos "$@"

# Ten minutes of load with faults now and then: nothing lost, nothing doubled, memory flat (ARGS: --seconds 3600)
[group('check')]
soak *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m tests.chaos --soak --seconds 600 "$@"

# Attack the daemon for a minute in each of 25 ways, beside legitimate traffic (ARGS: half-bodies --seconds 20, --list)
[group('check')]
attack *ARGS: setup
    @ops/install-servers bench
    @exec .venv/bin/python -m tests.attack "$@"

# Put a fresh system under load and settle every account; without a SCENARIO, list them (ARGS: steady --seconds 30)
[group('check')]
load *ARGS: setup
    @ops/install-servers test
    @exec .venv/bin/python -m loadtest "$@"

# Half a minute of load for CI: fails if a count is not exact or an answer is wrong, never for being slow
[group('check')]
load-check: (load "steady" "--seconds" "30")

# Feed decoder, configuration, spool, log importer and claims with bytes that reach new code (ARGS: spool --examples 1000000)
[group('check')]
fuzz *ARGS: setup
    @cmp -s tests/fuzz/requirements.txt .fuzz/installed || { \
        rm -rf .fuzz && .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        --target .fuzz/packages -r tests/fuzz/requirements.txt && cp tests/fuzz/requirements.txt .fuzz/installed; }
    @PYTHONPATH=.fuzz/packages exec .venv/bin/python -m tests.fuzz "$@"

# The same for CI: 3,000 inputs each
[group('check')]
fuzz-check: (fuzz "--examples" "3000")

# 10,000 events from each producer through a road that loses a tenth of everything, and three restarts: exact counts
[group('check')]
clients *ARGS: setup
    @ops/install-servers test
    @CLIENT_EVENTS=10000 exec .venv/bin/python -m pytest -p no:benchmark -rP tests/clients -k all_is_counted_once "$@"

# The tests of HTTP on the newest Granian there is, also one that pyproject.toml does not allow yet (ARGS go to pytest)
[group('check')]
granian *ARGS: setup
    @ops/install-servers test
    @rm -rf .granian
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .granian granian
    @PYTHONPATH="$PWD/.granian" .venv/bin/python -c 'import granian; print("Granian", granian.__version__)'
    @PYTHONPATH="$PWD/.granian" exec .venv/bin/python -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder tests/unit/ingest \
        {{ http_tests }} tests/integration/test_unix_socket.py tests/fault/test_shutdown.py "$@"

# The tests of HTTP on the ASGI application under Granian as it comes: the way out if a release breaks ours
[group('check')]
stock *ARGS: setup
    @ops/install-servers test
    @TEST_SERVER=stock exec .venv/bin/python -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder {{ http_tests }} "$@"

# The unit tests, and events on their whole way, on other Pythons (ARGS: versions in place of 3.12 and 3.13)
[group('check')]
pythons *ARGS: setup
    #!/bin/sh
    set -eu
    ops/install-servers test
    [ $# -gt 0 ] || set -- 3.12 3.13
    for version in "$@"; do
        TALLYD_PYTHON=$version ops/python-env
        .pythons/$version/bin/python -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder tests/unit {{ way_tests }}
    done

# Two real nodes of MariaDB Galera: what the doctor says, and what two writers do (a minute; ARGS go to pytest)
[group('check')]
galera *ARGS: setup
    @ops/install-servers galera
    @exec .venv/bin/python -m pytest -p no:benchmark tests/galera/cluster.py "$@"

# Known vulnerabilities and licences of the packages tallyd depends on, and their list as CycloneDX in dist/
[group('check')]
audit-deps: setup
    @cmp -s ops/audit/requirements.txt .audit/installed || { \
        .venv/bin/python -m venv --clear .audit/tools && \
        .audit/tools/bin/python -m pip install --quiet --disable-pip-version-check -r ops/audit/requirements.txt && \
        cp ops/audit/requirements.txt .audit/installed; }
    @exec .venv/bin/python ops/audit/deps.py

# Check style and likely mistakes: Python, Lua, shell, the Dockerfile
[group('check')]
lint: setup
    @ops/install-servers lint
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    luacheck --quiet lua bench
    .venv/bin/hadolint ops/container/Dockerfile
    shellcheck justw .ci/run ops/install-servers ops/python-env tests/galera/wsrep_sst_position tests/systemd/boot

# Check the types, strictly
[group('check')]
types: setup
    .venv/bin/mypy
    .venv/bin/mypy --python-version 3.10 ops/clients/python/tallyd_client.py

# Rewrite the sources in the one format, and fix what can be fixed
[group('change')]
fmt: setup
    .venv/bin/ruff check --fix-only .
    .venv/bin/ruff format .

# Measure everything on this machine, about 15 minutes, and make bench/README.md of it (ARGS: --only flush, --resume)
[group('measure')]
bench *ARGS: bench-peers
    .venv/bin/python -m bench "$@"

# Measure the main rows on this machine, in under a minute
[group('measure')]
bench-quick: setup
    @ops/install-servers bench
    .venv/bin/python -m bench --quick

# Install what tallyd is compared with: nginx with Lua, FastAPI with Uvicorn (in .bench, an environment of its own)
[group('measure')]
bench-peers: setup
    @ops/install-servers peers
    @cmp -s bench/peers/requirements.txt .bench/installed || { \
        .venv/bin/python -m venv --clear .bench/venv && \
        .bench/venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers/requirements.txt && \
        cp bench/peers/requirements.txt .bench/installed; }

# Check that nothing got slower, relative to what the same machine does bare in the same minutes
[group('measure')]
bench-check: setup
    @ops/install-servers bench
    .venv/bin/python -m bench --check

# Measure anew what bench-check compares with, on a quiet machine
[group('measure')]
bench-baseline: setup
    @ops/install-servers bench
    .venv/bin/python -m bench --baseline

# The tests of CI. At most three that fail run once more, alone: a busy machine can fail one of thousands
[private]
test-ci: setup
    #!/bin/sh
    set -u
    ops/install-servers test || exit
    .venv/bin/python -m pytest -p no:benchmark -n 4 --dist loadfile --no-loadscope-reorder
    code=$?
    [ $code = 1 ] || exit $code
    again='-m pytest -p no:benchmark --last-failed --last-failed-no-failures none'
    failed=$(.venv/bin/python $again --collect-only | grep -c '::')
    [ "$failed" -le 3 ] || exit 1
    echo "These $failed failed. They run once more, alone. One that passes now is a fault to mend all the same."
    exec .venv/bin/python $again -v

# All that CI runs
[group('check')]
ci: lint types test-ci load-check fuzz-check bench-check

# Build the browser tracker anew: daemon/web/static/analytics.min.js
[group('change')]
web: setup
    .venv/bin/python -m ops.web.build

# Build dist: the wheel, and the list of all that it needs with hashes. ops/install.md installs a server from both
[group('set up')]
wheel: setup
    #!/bin/sh
    set -eu
    rm -f dist/tallyd-*.whl
    .venv/bin/python -m hatchling build --target wheel --directory dist
    cp ops/constraints.txt dist/
    hash=$(sha256sum dist/tallyd-*.whl | cut -d' ' -f1)
    version=$(.venv/bin/python -m hatchling version)
    printf 'tallyd==%s --hash=sha256:%s\n--requirement constraints.txt\n' "$version" "$hash" >dist/requirements.txt

# Build dist/tallyd.pyz: tallyd and all that it needs in one file, for this Python and this kind of machine
[group('set up')]
zipapp: wheel
    @cmp -s ops/zipapp/requirements.txt .zipapp/installed || { \
        rm -rf .zipapp && .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
        --target .zipapp -r ops/zipapp/requirements.txt && cp ops/zipapp/requirements.txt .zipapp/installed; }
    PYTHONPATH=.zipapp .venv/bin/python -m shiv --console-script tallyd --compressed --output-file dist/tallyd.pyz \
        --find-links dist --quiet --requirement dist/requirements.txt

# Make requirements.lock anew from pyproject.toml, and of it the list that the wheel is installed with
[group('change')]
lock: setup
    .venv/bin/python -m pip install --quiet uv
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        --all-extras --group tools --upgrade --output-file requirements.lock pyproject.toml
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
        --no-annotate --constraint requirements.lock --output-file ops/constraints.txt pyproject.toml

# Remove what the recipes made, except the data of `tallyd dev` in .tallyd
[group('set up')]
clean:
    rm -rf .venv .audit .bench .fuzz .granian .pythons .web dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
    find . -name __pycache__ -type d -prune -exec rm -rf {} +
