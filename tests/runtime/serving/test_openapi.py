"""The document says what the routes do."""

from __future__ import annotations

import pytest

from msrt.serving.openapi import PATHS
from msrt.serving.routes import METHODS, Ask, find_route
from tests.runtime.serving.caller import call

NAMES = {"{model}": "digits", "{version}": "3", "{region}": "a"}


def path_of(path):
    for name, value in NAMES.items():
        path = path.replace(name, value)
    return path


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.path)
def test_each_path_leads_where_the_document_says(path):
    """To its question, by its methods."""
    route = find_route(path_of(path.path))
    assert route is not None
    assert route.ask is path.ask
    said = call("/v2/openapi.json").json["paths"][path.path]
    assert {method.upper() for method in said} == set(METHODS[path.ask]) - {"HEAD"}


def test_every_question_is_in_the_document():
    """None is forgotten, and each reference leads to a schema."""
    assert {path.ask for path in PATHS} == set(Ask)
    answer = call("/v2/openapi.json")
    assert answer.json["openapi"].startswith("3.1")
    schemas = answer.json["components"]["schemas"]
    named = {part.split('"')[0] for part in answer.body.decode().split("#/components/schemas/")[1:]}
    assert named <= schemas.keys()
