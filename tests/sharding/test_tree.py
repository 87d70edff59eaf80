"""Every key has exactly one leaf, whatever was split and merged, and no other tree can be decoded."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import canonical
from sharding.errors import ShardKeyError, TreeError
from sharding.tree import FIRST_DEPTH, MAX_DEPTH, MAX_LEAVES, Prefix, ShardTree, merge, split

keys = st.binary(min_size=32, max_size=32)


@st.composite
def prefixes(draw: st.DrawFn, min_length: int = 0) -> Prefix:
    length = draw(st.integers(min_length, MAX_DEPTH))
    return Prefix(draw(st.integers(0, (1 << length) - 1)), length)


@st.composite
def trees(draw: st.DrawFn) -> ShardTree:
    tree = ShardTree.fixed(draw(st.integers(0, 3)))
    for _ in range(draw(st.integers(0, 20))):
        leaf = draw(st.sampled_from(tree.leaves))
        if leaf.length < MAX_DEPTH:
            tree = split(tree, leaf)
    return tree


def bits_of(key: bytes) -> str:
    return "".join(f"{octet:08b}" for octet in key)


@given(prefixes(), keys)
def test_a_prefix_contains_the_keys_that_begin_with_it(prefix: Prefix, key: bytes) -> None:
    assert prefix.contains(key) == bits_of(key).startswith(prefix.text())
    assert prefix.contains(prefix.basis())


@given(prefixes())
def test_the_basis_is_the_prefix_a_one_and_zeros(prefix: Prefix) -> None:
    assert bits_of(prefix.basis()) == (prefix.text() + "1").ljust(256, "0")


@given(prefixes(min_length=1))
def test_family_relations_hold(prefix: Prefix) -> None:
    assert prefix.sibling().sibling() == prefix
    assert prefix.parent().children() == tuple(sorted([prefix, prefix.sibling()]))
    assert prefix.sibling().parent() == prefix.parent()
    assert not prefix.sibling().contains(prefix.basis())


@given(prefixes(), prefixes())
def test_order_is_that_of_the_texts(a: Prefix, b: Prefix) -> None:
    def padded(prefix: Prefix) -> tuple[str, int]:
        return prefix.text().ljust(MAX_DEPTH, "0"), prefix.length

    assert (a < b) == (padded(a) < padded(b))
    assert (a <= b) == (padded(a) <= padded(b))


@given(prefixes())
def test_a_prefix_decodes_from_its_length_and_bits(prefix: Prefix) -> None:
    assert prefix.encode() == canonical.encode([prefix.length, prefix.bits])
    assert Prefix.decode(prefix.encode()) == prefix


@given(trees(), keys)
def test_every_key_has_exactly_one_leaf(tree: ShardTree, key: bytes) -> None:
    assert [leaf for leaf in tree.leaves if leaf.contains(key)] == [tree.leaf_of(key)]


@given(trees())
def test_every_leaf_holds_its_own_basis(tree: ShardTree) -> None:
    assert [tree.leaf_of(leaf.basis()) for leaf in tree.leaves] == list(tree.leaves)
    assert all(leaf in tree for leaf in tree.leaves)


@given(trees(), st.data())
def test_merging_undoes_splitting_and_neither_changes_the_tree(tree: ShardTree, data: st.DataObject) -> None:
    leaf = data.draw(st.sampled_from(tree.leaves))
    kept = tree.leaves
    if leaf.length == MAX_DEPTH:
        with pytest.raises(TreeError, match="greatest depth"):
            split(tree, leaf)
        return
    finer = split(tree, leaf)
    assert len(finer.leaves) == len(tree.leaves) + 1
    assert all(child in finer for child in leaf.children())
    assert leaf not in finer
    assert merge(finer, leaf) == tree
    assert tree.leaves == kept


@given(trees())
def test_a_tree_decodes_from_its_bytes_and_its_leaves_in_any_order(tree: ShardTree) -> None:
    assert ShardTree.decode(tree.encode()) == tree
    shuffled = list(tree.leaves)
    random.Random(len(shuffled)).shuffle(shuffled)
    assert ShardTree.of(shuffled) == tree


@given(trees(), st.data())
def test_leaves_that_do_not_partition_the_keys_are_refused(tree: ShardTree, data: st.DataObject) -> None:
    leaves = list(tree.leaves)
    at = data.draw(st.integers(0, len(leaves) - 1))
    broken = data.draw(st.sampled_from(["drop", "double", "shorten", "swap"]))
    if broken == "drop":
        del leaves[at]
    elif broken == "double":
        leaves.insert(at, leaves[at])
    elif broken == "shorten" and leaves[at].length < MAX_DEPTH:
        leaves[at] = leaves[at].children()[0]
    else:
        leaves = leaves[::-1] if len(leaves) > 1 else []
    with pytest.raises(TreeError):
        ShardTree(tuple(leaves))


@given(st.lists(st.integers(0, 255), max_size=12).map(bytes))
def test_decoded_lengths_are_a_partition_or_refused(lengths: bytes) -> None:
    try:
        tree = ShardTree.decode(canonical.encode([1, lengths]))
    except TreeError:
        return
    assert sum(2 ** (MAX_DEPTH - leaf.length) for leaf in tree.leaves) == 2**MAX_DEPTH
    assert bytes(leaf.length for leaf in tree.leaves) == lengths


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_tree_errors(data: bytes) -> None:
    for decode in (Prefix.decode, ShardTree.decode):
        with contextlib.suppress(TreeError):
            assert decode(data).encode() == data


@pytest.mark.parametrize(
    "value",
    [
        [True, b"\0"],
        [2, b"\0"],
        [1, b""],
        [1, "a"],
        [1, [0]],
        [1],
        {},
        [1, b"\1"],
        [1, b"\1\1\1"],
        [1, bytes([49])],
    ],
)
def test_hostile_trees_are_refused(value: object) -> None:
    with pytest.raises(TreeError):
        ShardTree.decode(canonical.encode(value))


@pytest.mark.parametrize(
    "value", [[49, 0], [-1, 0], [3, 8], [3, -1], [True, 0], [0, False], [0], "x", [2**63, 1]]
)
def test_hostile_prefixes_are_refused(value: object) -> None:
    with pytest.raises(TreeError):
        Prefix.decode(canonical.encode(value))


def test_too_many_leaves_are_refused_before_any_is_made() -> None:
    with pytest.raises(TreeError):
        ShardTree.decode(canonical.encode([1, bytes([17]) * (MAX_LEAVES + 1)]))
    with pytest.raises(TreeError, match="choose 0 to 16"):
        ShardTree.fixed(17)
    with pytest.raises(TreeError):
        ShardTree.fixed(-1)
    with pytest.raises(TreeError, match="0 leaves"):
        ShardTree(())


def test_what_is_no_leaf_is_neither_split_nor_merged() -> None:
    tree = ShardTree.fixed(2)
    with pytest.raises(TreeError, match="no leaf"):
        split(tree, Prefix(0, 1))
    with pytest.raises(TreeError, match="not both leaves"):
        merge(tree, Prefix(0, 0))
    with pytest.raises(TreeError, match="not both leaves"):
        merge(split(tree, Prefix(0, 2)), Prefix(0, 1))


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33, "x" * 32, None])
def test_only_whole_keys_have_a_leaf(key: object) -> None:
    with pytest.raises(ShardKeyError):
        ShardTree.fixed(1).leaf_of(key)  # type: ignore[arg-type]


def test_the_root_has_no_family_above_it() -> None:
    root = Prefix(0, 0)
    assert root.text() == ""
    for relation in (root.parent, root.sibling):
        with pytest.raises(TreeError, match="empty prefix"):
            relation()


def test_the_first_release_has_sixty_four_shards() -> None:
    tree = ShardTree.fixed(FIRST_DEPTH)
    assert len(tree.leaves) == 64
    assert tree.leaves[22].text() == "010110"
    assert tree.leaf_of(bytes([0b01011011]) + bytes(31)).text() == "010110"
    assert Prefix(22, 6).encode().hex() == "920616"
    assert ShardTree.fixed(2).encode().hex() == "9201c40402020202"
    assert Prefix(22, 6).basis().hex() == "5a" + "00" * 31
