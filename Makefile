#| Targets
#|   make serve         serve a checkpoint: set up, export it, start Triton and the gateway; Ctrl-C stops all of it
#|   make export        export a checkpoint, without serving it; a server that is running serves it too
#|   make test          check and test every promise once, in 9 minutes (ALL=1: everything, in half an hour)
#|   make quick         lint, types, and the tests that need no server and no export, in 90 seconds (T=path: all tests of a file or directory)
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
#| The command behind them, once set up: .venv/bin/tidegate --help (serve, export, models, remove, keys, check, version)
#|
#| Settings (environment variables, or make serve NAME=value)
#|   MODEL_CHECKPOINT  checkpoint to serve: a file or directory, as training left it (default: SmolLM2-135M-Instruct)
#|   MODEL_NAME        name of the model; one in the model repository is served without a checkpoint (default: from the name of the checkpoint or its directory)
#|   PRECISION         how weights are stored: auto, fp32, int8, int8-row, int4, fp16; auto decides by the checkpoint and this machine's processor (default: auto)
#|   TOKENIZER         gpt2, a tokenizer.json, SentencePiece .model, .tiktoken, vocab.txt or meta.pkl, or a directory with one (default: the checkpoint's own)
#|   CHAT_TEMPLATE     dolly, none or a Jinja file (default: the checkpoint's own)
#|   HEADS             attention heads, if the checkpoint does not store them (default: as the checkpoint says)
#|   CONTEXT_LENGTH    tokens per sequence, prompt and answer together (default: the model's own, at most 2048)
#|   MODEL_REPOSITORY  directory of exported models (default: model_repository/ in a clone, else ~/.local/share/tidegate/model_repository)
#|   MODELS            other models of the repository to serve as well: names separated by commas, or all (default: none)
#|   SLOTS             sequences cached at once, whose memory is then reserved at the start (default: up to 32, by the free memory; it grows with use)
#|   PORT              port to listen on (default: 5002)
#|   HOST              address of this machine to listen on (default: 0.0.0.0, all of them)
#|   TRITON_URL        gRPC address of a Triton that is already running; `serve` then exports nothing and starts no Triton
#|   CORS_ORIGINS      origins whose web pages may call the API (default: *)
#|   MY_API_KEY        the key that clients send (default: a_default_key_for_testing, which everyone knows)
#|   MY_API_KEY_FILE   file that holds only that key, such as a mounted container secret (default: none)
#|   API_KEYS_FILE     more keys, each with its own limits; `tidegate keys` manages the file (default: none)
#|   ALLOW_DEFAULT_KEY whether the public default key is accepted; off in the gateway's image, and empty means off (default: on)
#|   MAX_WAITING       requests that may queue; more are answered with 429 (default: 256)
#|   QUEUE_TIMEOUT     seconds a request may queue before it is answered with 429 (default: 60)
#|   PREFILL_CHUNK     prompt tokens per step; fewer while other sequences decode (default: 256)
#|   SPECULATION       draft tokens from the text so far and verify several per step; same output, sooner (default: on)
#|   RUN_AHEAD         milliseconds per step for tokens that Triton draws itself, or off; same output, sooner (default: 25)
#|   RECOVERY_TIMEOUT  seconds a sequence waits for a Triton that does not answer (default: 30)
#|   DRAIN_DELAY       seconds a stopping gateway keeps accepting requests while /readyz already answers 503 (default: 0)
#|   GRACE_PERIOD      seconds running sequences then have to finish (default: 2)
#|   LOG_FORMAT        format of log lines (default: text)
#|   OTEL_EXPORTER_OTLP_ENDPOINT where traces are sent, such as http://collector:4318 (default: nowhere)
#|   PYTHON            the Python that makes .venv, 3.11 to 3.13 (default: python3, else one of them on PATH)

.DEFAULT_GOAL := help
.PHONY: help serve export test quick chaos fuzz bench gpu-check audit setup setup-torch clean

PYTHON_USED := $(or $(PYTHON),python3)

# Each last line is one plain command that make starts without a shell: so a signal to make reaches it.
help:
	@sed -n 's/^#| \{0,1\}//p' Makefile

serve:
	@$(PYTHON_USED) -m scripts.bootstrap serve
	@.venv/bin/tidegate serve

export:
	@$(PYTHON_USED) -m scripts.bootstrap export
	@.venv/bin/tidegate export

setup:
	@$(PYTHON_USED) -m scripts.bootstrap

setup-torch:
	@$(PYTHON_USED) -m scripts.bootstrap torch

test:
	@$(PYTHON_USED) -m scripts.bootstrap torch test $(if $(ALL),all-)packages
	@scripts/checks $(if $(ALL),all)

quick:
	@$(PYTHON_USED) -m scripts.bootstrap torch test
	@scripts/checks quick $(T)

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
