"""`python -m sensor` is the command `harborguard-sensor`."""

from sensor.cli.main import main

main()
