from wan_jax.cli import main

main()
