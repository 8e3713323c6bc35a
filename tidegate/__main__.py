"""`tidegate`, also `python -m tidegate`. Standard library only, so that help takes milliseconds: commands import what they need
when they run."""

import sys


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from tidegate.commands import run  # imported here so that Ctrl-C is quiet from the start

        sys.exit(run(given))
    except KeyboardInterrupt:
        if given[:1] != ["serve"]:
            sys.exit(130)
        print("\nTidegate has stopped.", flush=True)


if __name__ == "__main__":
    main()
