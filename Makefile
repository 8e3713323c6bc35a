#| Targets
#|   make serve         serve a checkpoint: sets up, exports it, starts Triton and the gateway; Ctrl-C stops all
#|   make export        the export alone, into model_repository/ (all its options: .venv/bin/python -m export --help)
#|   make test          all tests and checks
#|   make chaos         break a real stack for about 13 minutes and check that nothing is lost: docs/reliability.md
#|   make fuzz          12,000 changed steps for the backend and 12,000 changed checkpoints for the exporter
#|   make bench         every engine and server side by side on this machine: bench/RESULTS.md, in under an hour (QUICK=1: minutes)
#|   make gpu-check     check and measure the whole stack on this machine's NVIDIA GPU, without Docker: docs/gpu.md
#|   make audit         hashes of all requirements, and known vulnerabilities of them (OFFLINE=1: the hashes alone)
#|   make setup         install what serving needs into .venv, from requirements/serve.lock
#|   make setup-torch   install torch too, which reads .pt files (serve and export do it when they need it)
#|   make clean         remove everything that was made: .venv, exported models, logs
#|   make help          this list
#|
#| Settings (environment variables, or make serve NAME=value)
#|   MODEL_CHECKPOINT   what to serve: a file or directory, as its project left it (default: SmolLM2-135M-Instruct)
#|   MODEL_NAME         its name for clients (default: from the name of the file or its directory)
#|   PRECISION          how its weights are stored: auto (by what they are and what computes them), fp32, int8, int8-row, int4 or fp16 (default: auto)
#|   TOKENIZER          gpt2, a tokenizer.json, SentencePiece's .model, a .tiktoken, a vocab.txt, a meta.pkl, or their directory (default: the checkpoint's own)
#|   CHAT_TEMPLATE      dolly, none or a Jinja file (default: the checkpoint's own)
#|   HEADS              of attention, where a bare checkpoint does not tell them (default: as the checkpoint says)
#|   CONTEXT_LENGTH     positions of a sequence, prompt and text together (default: the model's own, at most 2048)
#|   SLOTS              sequences cached at once, whose memory is then reserved at the start (default: up to 32, by the free memory; it grows with use)
#|   PORT               where the gateway listens (default: 5002)
#|   HOST               on which address of this machine (default: 0.0.0.0, all of them)
#|   MY_API_KEY         the key that clients send (default: a_default_key_for_testing, which everyone knows)
#|   MY_API_KEY_FILE    a file that holds that key and nothing else, as secrets of containers do (default: none)
#|   API_KEYS_FILE      more keys, each with limits of its own; .venv/bin/python -m gateway.keys makes it (default: none)
#|   ALLOW_DEFAULT_KEY  on or off: whether that public key may be the key; the gateway's image has off, and empty is off (default: on)
#|   CORS_ORIGINS       whose web pages may ask: *, none, or https://chat.example,https://… (default: *)
#|   LOG_FORMAT         text or json (default: text)
#|   MAX_WAITING        requests that may queue before the answer is 429 (default: 256)
#|   QUEUE_TIMEOUT      seconds that one may queue before the answer is 429 (default: 60)
#|   PREFILL_CHUNK      prompt tokens that one step may compute; while texts are written, fewer (default: 256)
#|   SPECULATION        on or off: guess tokens from the text so far, check several in a step; same texts, sooner (default: on)
#|   RUN_AHEAD          milliseconds that a step may take for tokens which Triton draws itself, or off; same texts, sooner (default: 25)
#|   RECOVERY_TIMEOUT   seconds that a text waits for a Triton that does not answer (default: 30)
#|   DRAIN_DELAY        seconds that a stopping gateway still accepts, for load balancers to see /readyz say 503 (default: 0)
#|   GRACE_PERIOD       seconds after that in which the texts under way may finish (default: 2)
#|   OTEL_EXPORTER_OTLP_ENDPOINT   where traces go, http://collector:4318 (default: nowhere)
#|   TRITON_URL         gRPC address of a Triton that runs already: no export, no Triton of our own
#|   PYTHON             the Python that makes .venv, 3.11 to 3.13 (default: python3, else one of them on PATH)

.DEFAULT_GOAL := help
.PHONY: help serve export test chaos fuzz bench gpu-check audit setup setup-torch clean

PYTHON_USED := $(or $(PYTHON),python3)

# Each last line is one plain command that make starts without a shell: so a signal to make reaches it.
help:
	@sed -n 's/^#| \{0,1\}//p' Makefile

serve:
	@$(PYTHON_USED) -m scripts.bootstrap serve
	@.venv/bin/python -m serve

export:
	@$(PYTHON_USED) -m scripts.bootstrap export
	@.venv/bin/python -m serve.exporting

setup:
	@$(PYTHON_USED) -m scripts.bootstrap

setup-torch:
	@$(PYTHON_USED) -m scripts.bootstrap torch

test:
	@$(PYTHON_USED) -m scripts.bootstrap torch test
	@scripts/test-packages
	@scripts/checks

chaos:
	@$(PYTHON_USED) -m scripts.bootstrap torch test
	@.venv/bin/python -m chaos

fuzz:
	@$(PYTHON_USED) -m scripts.bootstrap torch test
	@.venv/bin/python -m tests.fuzz

bench:
	@$(PYTHON_USED) -m scripts.bootstrap test
	@.venv/bin/python -m bench $(if $(QUICK),--quick)

gpu-check:
	@PYTHON=$(PYTHON_USED) scripts/gpu-check

audit:
	@PYTHON=$(PYTHON_USED) scripts/audit $(if $(OFFLINE),--offline)

clean:
	rm -rf .venv .run .model_repository.export
	find model_repository -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
