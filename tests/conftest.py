"""Settings for all tests."""

import hypothesis

# Two workers share two cores with the code under test: an example's time says nothing.
hypothesis.settings.register_profile("shared-cores", deadline=None, max_examples=60)
hypothesis.settings.load_profile("shared-cores")
