"""Loads the tests' images into an engine.

`oncall-test/base:1` and `:2` differ only in a label, thus in their id: what a recreate with another
image needs.
"""

from pathlib import Path

from backends.engine_api import Engine

REPOSITORY = "oncall-test/base"
FIRST, SECOND = f"{REPOSITORY}:1", f"{REPOSITORY}:2"
RECIPE_LABEL = "oncall-agent.test.recipe"
VARIANT_LABEL = "oncall-agent.test.variant"


def load(engine: Engine, archive: Path | None) -> None:
    """Import both images unless the engine has them; without an archive the first is there already."""
    if archive is not None and not has_image(engine, FIRST, archive.stem):
        changes = ['CMD ["/bin/sh"]', f"LABEL {RECIPE_LABEL}={archive.stem}", f"LABEL {VARIANT_LABEL}=1"]
        with archive.open("rb") as content:
            engine.import_image(content, REPOSITORY, "1", changes)
    if archive is None or not has_image(engine, SECOND, archive.stem):
        engine.derive_image(FIRST, REPOSITORY, "2", f"LABEL {VARIANT_LABEL}=2")


def has_image(engine: Engine, name: str, recipe: str) -> bool:
    """True when the engine has this image and it was made from this recipe."""
    labels = engine.image_labels(name)
    return labels is not None and labels.get(RECIPE_LABEL) == recipe
