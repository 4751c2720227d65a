"""Where `wardround-site` begins: its modules take a second to load, and Ctrl-C may come then."""

from wardround.privacy import commands


def main() -> None:
    """Load the command line and run it."""
    commands.load_and_run("wardround.client.cli")


if __name__ == "__main__":
    main()
