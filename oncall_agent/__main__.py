"""`python -m oncall_agent` is the command line."""

from oncall_agent.cli import main

if __name__ == "__main__":
    main()
