"""What stands in for the data of Flower's published projects, and that an edited project is found out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.published import PROJECTS, STANDINS, Unfit, main, measure

MODULES = ("datasets", "flwr_datasets", "flwr_datasets.partitioner")


@pytest.fixture(scope="module")
def standins() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The stand-ins for `datasets` and `flwr_datasets.partitioner`, which no other test gets to see."""
    before = {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(STANDINS))
    try:
        import datasets
        from flwr_datasets import partitioner

        assert Path(str(datasets.__file__)).parent == STANDINS
        yield datasets, partitioner
    finally:
        sys.path.remove(str(STANDINS))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@given(
    labels=st.lists(st.integers(0, 9), min_size=120, max_size=300),
    count=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_row_is_in_one_part_and_the_same_one_on_every_node(
    standins: tuple[ModuleType, ModuleType], labels: list[int], count: int, seed: int
) -> None:
    datasets, partitioner = standins
    data = datasets.Dataset({"label": labels})
    for made in (
        lambda: partitioner.IidPartitioner(num_partitions=count),
        lambda: partitioner.DirichletPartitioner(count, partition_by="label", alpha=1.0, seed=seed),
    ):
        parts = made().parts(data)
        assert sorted(row for part in parts for row in part) == list(range(len(labels)))
        assert len(parts) == count
        assert min(len(part) for part in parts) >= partitioner.LEAST
        assert made().parts(data) == parts


@given(rows=st.integers(5, 200), seed=st.integers(0, 2**32 - 1))
def test_a_split_keeps_each_row_once(standins: tuple[ModuleType, ModuleType], rows: int, seed: int) -> None:
    datasets, _ = standins
    split = datasets.Dataset({"row": list(range(rows))}).train_test_split(test_size=0.2, seed=seed)
    assert len(split["test"]) == round(0.2 * rows)
    assert sorted([*split["train"]["row"], *split["test"]["row"]]) == list(range(rows))


def test_a_transform_sees_rows_in_lists_and_gives_one_back(standins: tuple[ModuleType, ModuleType]) -> None:
    datasets, _ = standins
    data = datasets.Dataset({"image": [1, 2, 3], "label": [4, 5, 6]})
    tenfold = data.with_transform(lambda rows: {**rows, "image": [10 * one for one in rows["image"]]})
    assert tenfold[1] == {"image": 20, "label": 5}
    assert tenfold[1:] == {"image": [20, 30], "label": [5, 6]}
    assert data[1] == {"image": 2, "label": 5}


def test_iris_is_divided_whole(standins: tuple[ModuleType, ModuleType]) -> None:
    pytest.importorskip("sklearn")
    _, partitioner = standins
    from flwr_datasets import FederatedDataset

    parts = FederatedDataset(
        dataset="hitorilabs/iris", partitioners={"train": partitioner.IidPartitioner(num_partitions=4)}
    )
    found = [parts.load_partition(number, "train") for number in range(4)]
    assert [len(part) for part in found] == [38, 38, 37, 37]
    species = [one for part in found for one in part["species"]]
    assert [species.count(one) for one in range(3)] == [50, 50, 50]
    with pytest.raises(ValueError, match="nothing here stands for some/other"):
        FederatedDataset(
            dataset="some/other", partitioners={"train": partitioner.IidPartitioner(num_partitions=4)}
        ).load_partition(0)


def test_a_project_that_is_not_as_it_was_published_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = PROJECTS[0]
    with pytest.raises(Unfit, match="a folder with Flower's examples"):
        measure(project, tmp_path, tmp_path / "place")
    root = tmp_path / "examples" / project.name
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.flwr.app]\npublisher = "somebody"\n')
    with pytest.raises(Unfit, match="not that of Flower's commit fdef7af"):
        measure(project, tmp_path, tmp_path / "place")
    assert main([str(tmp_path), "--only", project.name]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("benchmarks.published")]
    assert project.name in line
