"""What each gateway setting means. Help texts, flags, `make help` and docs/operations.md are generated from this table.

gateway/settings.py reads their values. Standard library only.
"""

from dataclasses import dataclass

from gateway.settings import INTEGERS, LOG_FORMATS, LONGEST_KEY, LONGEST_RUN_AHEAD, SWITCH

GATEWAY = "gateway"


@dataclass(frozen=True)
class Setting:
    name: str  # of the environment variable
    group: str  # heading in help texts
    meaning: str
    default: str
    value: str  # placeholder in help texts: PORT, SECONDS
    read_by: str  # the process that needs a restart when it changes
    allowed: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.lower().replace("_", "-")


def _gateway(
    name: str, group: str, meaning: str, default: str, value: str, allowed: str = "", read_by: str = GATEWAY
) -> Setting:
    lowest, highest = INTEGERS.get(name.lower(), (0, 0))
    return Setting(name, group, meaning, default, value, read_by, f"{lowest:,} to {highest:,}" if highest else allowed)


ADDRESS, KEYS, LIMITS, SPEED, STOPPING, LOGS = "address", "keys", "limits", "speed", "stopping and recovery", "logs and traces"
ON_OFF = " or ".join(SWITCH)

SETTINGS = (
    _gateway("PORT", ADDRESS, "port to listen on", "5002", "PORT", read_by="start, gateway"),
    _gateway("HOST", ADDRESS, "address of this machine to listen on", "0.0.0.0, all of them", "ADDRESS", "", "start, gateway"),
    _gateway(
        "TRITON_URL",
        ADDRESS,
        "gRPC address of a Triton that is already running; `serve` then exports nothing and starts no Triton",
        "",
        "HOST:PORT",
        read_by="start, gateway",
    ),
    _gateway(
        "CORS_ORIGINS",
        ADDRESS,
        "origins whose web pages may call the API",
        "*",
        "ORIGINS",
        "*, none, or origins separated by commas",
    ),
    _gateway(
        "MY_API_KEY",
        KEYS,
        "the key that clients send",
        "a_default_key_for_testing, which everyone knows",
        "KEY",
        "at least one printable character, no spaces at its ends",
    ),
    _gateway(
        "MY_API_KEY_FILE",
        KEYS,
        "file that holds only that key, such as a mounted container secret",
        "none",
        "FILE",
        f"a file of at most {LONGEST_KEY} bytes",
    ),
    _gateway("API_KEYS_FILE", KEYS, "more keys, each with its own limits; `tidegate keys` manages the file", "none", "FILE"),
    _gateway(
        "ALLOW_DEFAULT_KEY",
        KEYS,
        "whether the public default key is accepted; off in the gateway's image, and empty means off",
        "on",
        "on|off",
        ON_OFF,
    ),
    _gateway("MAX_WAITING", LIMITS, "requests that may queue; more are answered with 429", "256", "N"),
    _gateway("QUEUE_TIMEOUT", LIMITS, "seconds a request may queue before it is answered with 429", "60", "SECONDS"),
    _gateway("PREFILL_CHUNK", SPEED, "prompt tokens per step; fewer while other sequences decode", "256", "N"),
    _gateway(
        "SPECULATION",
        SPEED,
        "draft tokens from the text so far and verify several per step; same output, sooner",
        "on",
        "on|off",
        ON_OFF,
    ),
    _gateway(
        "RUN_AHEAD",
        SPEED,
        "milliseconds per step for tokens that Triton draws itself, or off; same output, sooner",
        "25",
        "MS",
        f"off, or 1 to {LONGEST_RUN_AHEAD:,}",
    ),
    _gateway("RECOVERY_TIMEOUT", STOPPING, "seconds a sequence waits for a Triton that does not answer", "30", "SECONDS"),
    _gateway(
        "DRAIN_DELAY",
        STOPPING,
        "seconds a stopping gateway keeps accepting requests while /readyz already answers 503",
        "0",
        "SECONDS",
    ),
    _gateway("GRACE_PERIOD", STOPPING, "seconds running sequences then have to finish", "2", "SECONDS"),
    _gateway("LOG_FORMAT", LOGS, "format of log lines", "text", "|".join(LOG_FORMATS), " or ".join(LOG_FORMATS)),
    _gateway(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        LOGS,
        "where traces are sent, such as http://collector:4318",
        "nowhere",
        "URL",
        "an HTTP address",
    ),
)

# Only for the gateway alone: `serve` names the model after its checkpoint.
MODEL_NAME = Setting("MODEL_NAME", "model", "the default model", "the first that Triton serves", "NAME", GATEWAY)
