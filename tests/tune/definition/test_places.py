"""Where the images of a data set lie, told from its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune.definition.inputs import place_of, shared_folder, with_absolute_place, without_place
from tune.definition.spec import dataset_tag
from tune.tracking.text import dataset_input


def test_a_place_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_absolute_place("folder:pets") == f"folder:{tmp_path / 'pets'}"
    assert with_absolute_place("table:~/pets/labels.csv") == f"table:{tmp_path / 'pets' / 'labels.csv'}"
    assert with_absolute_place("cifar10") == "cifar10" and place_of("cifar10") is None


def test_machines_of_a_cluster_share_the_folder_of_a_table_and_its_images() -> None:
    assert shared_folder("table:/data/pets/labels.csv") == Path("/data/pets")
    assert shared_folder("folder:/data/pets") == Path("/data/pets")
    assert shared_folder("digits") is None


def test_names_show_the_last_part_of_a_place() -> None:
    assert without_place("folder:/home/ann/pets") == "folder:.../pets"
    assert without_place("table:/home/ann/pets.csv") == "table:.../pets.csv"
    assert [dataset_tag(name) for name in ("svhn", "folder:/x/pets/", "table:/x/animals.csv")] == [
        "svhn",
        "pets",
        "animals",
    ]


def test_mlflow_is_told_where_a_table_lies() -> None:
    told = dataset_input("animals", "table:/x/animals.csv", labelled=1, valid=1)
    assert (told["source_type"], told["source"]) == ("local", '{"uri": "/x/animals.csv"}')
    assert "STL10" in dataset_input("stl10", "stl10", labelled=1, valid=1)["source"]
