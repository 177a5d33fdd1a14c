import warnings

from wan_jax.cli import main

# One line, as an error is; where in the code it comes from tells a user of the command line nothing.
warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
main()
