"""Compose files: text -> `core.model.Project`, with every problem at its place.

    files = find_files(".", os.environ)
    loaded = load_project(files, project_name=None, project_dir=None, env=os.environ)
    print(to_yaml(config_document(loaded)))

Which keys are built is in `keys`; where we differ from Compose on purpose is said where it happens.
"""

from supervisor.compose.document import config_document, to_yaml
from supervisor.compose.files import find_files
from supervisor.compose.naming import normalize_project_name
from supervisor.compose.problems import ComposeError, ComposeErrors, Problem
from supervisor.compose.project import Loaded, file_variables, load_project, merged_document
from supervisor.compose.variables import Variable

__all__ = [
    "ComposeError",
    "ComposeErrors",
    "Loaded",
    "Problem",
    "Variable",
    "config_document",
    "file_variables",
    "find_files",
    "load_project",
    "merged_document",
    "normalize_project_name",
    "to_yaml",
]
