"""Where `wardround-site` begins: its modules take a second to load, and Ctrl-C may come then."""

from wardround.privacy import commands


def main() -> None:
    """Load the command line and run it; interrupted while loading, it ends without a traceback."""
    commands.run(_load_and_run)


def _load_and_run() -> None:
    from wardround.client.cli import main as run

    run()


if __name__ == "__main__":
    main()
