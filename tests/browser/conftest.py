"""The tests of the page need a browser's driver, which `make test-browser` alone installs."""

from importlib.util import find_spec

# Without it they are not read; to ask for them then ends with "no tests ran".
collect_ignore_glob = [] if find_spec("selenium") else ["test_*.py"]
