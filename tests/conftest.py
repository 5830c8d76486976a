"""Check every array's shape and dtype while the tests run."""

from jaxtyping import install_import_hook

# Before any test imports the package.
install_import_hook("opinion_sae", "beartype.beartype")
