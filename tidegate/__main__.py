"""`tidegate`, also `python -m tidegate`. Standard library only, and a help takes milliseconds: what a command needs is imported
when it runs."""

import sys


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from tidegate.commands import run  # here, so that Ctrl-C is quiet from the first moment on

        sys.exit(run(given))
    except KeyboardInterrupt:
        if given[:1] != ["serve"]:
            sys.exit(130)
        print("\nTidegate has stopped.", flush=True)


if __name__ == "__main__":
    main()
