"""The executor of the documentation, imported from where readers find it."""

import importlib
import sys
from types import ModuleType

from docs.pages import ROOT

FOLDER = ROOT / "docs" / "examples" / "oncall-agent-flags"


def module(name: str) -> ModuleType:
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    return importlib.import_module(name)
