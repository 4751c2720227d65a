"""Where `wardround-coordinator` begins: loading takes a moment, and Ctrl-C may come then."""

from wardround.privacy import commands


def main() -> None:
    """Load the command line and run it."""
    commands.load_and_run("wardround.server.cli")


if __name__ == "__main__":
    main()
