"""Whether the libraries of the extra `diffusion` are installed."""

from importlib.util import find_spec

from lesionforge.errors import BadInput

LIBRARIES = ("diffusers", "transformers", "peft")


def require() -> None:
    """Raises BadInput where one of them is missing."""
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise BadInput(f"{', '.join(missing)} not installed; pip install 'lesionforge[diffusion]'")
