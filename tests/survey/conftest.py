"""What the tests of the shipped surveys need from outside the package."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def derive():
    """tools/derive_surveys.py as a module."""
    spec = importlib.util.spec_from_file_location("derive", ROOT / "tools" / "derive_surveys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def gss_source():
    """The folder with the General Social Survey's files."""
    folder = Path(os.environ.get("OPINION_SAE_GSS") or ROOT.parent / "shared" / "data" / "gss_2016_2018")
    if not (folder / "gss_labels.json").is_file():
        pytest.skip("OPINION_SAE_GSS does not name the folder of gss_2016.csv.gz, gss_2018.csv.gz and gss_labels.json")
    return folder
