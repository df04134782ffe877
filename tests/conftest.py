import os

from hypothesis import HealthCheck, settings

pytest_plugins = ["comfy_harness.pytest_plugin"]

# Times vary on a shared machine, so no deadline; `make test-thorough` draws many more examples.
settings.register_profile("default", max_examples=40, deadline=None)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
