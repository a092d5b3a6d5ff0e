"""Which channels have to be cut together: against the groups of `channel_cases`, and what holds of every model."""

from __future__ import annotations

import numpy as np
import pytest
from channel_cases import CASES

from lissom.graph.channels import Channels, find_channels
from lissom.graph.coupling_table import RULES, rule_of
from lissom.graph.describe import op_name
from small_models import MODELS, traced

NONE = np.zeros(0, dtype=np.int64)
SHORT = {"weight": "w", "bias": "b", "running_mean": "m", "running_var": "v"}


def short(parameter: str, axis: int) -> str:
    layer, _, name = parameter.rpartition(".")
    return f"{layer}{'.' if layer else ''}{SHORT.get(name, name + '/')}{axis}"


def free_groups(channels: Channels) -> dict[str, object]:
    """Members to the size; to a list of sizes, largest first, where several groups have the same members."""
    found: dict[str, list[int]] = {}
    for group in channels.groups:
        if group.reason is None and group.size > 1:
            members = " ".join(sorted(short(m.parameter, m.axis) for m in group.members))
            found.setdefault(members, []).append(group.size)
    return {name: sizes[0] if len(sizes) == 1 else sorted(sizes, reverse=True) for name, sizes in found.items()}


def reason_of(channels: Channels, member: str) -> str:
    reasons = {g.reason for g in channels.groups for m in g.members if short(m.parameter, m.axis) == member}
    assert reasons, f"{member} is in no group"
    return " | ".join(sorted(str(reason) for reason in reasons))


@pytest.mark.parametrize("name", CASES)
def test_groups_are_those_written_by_hand(name):
    case = CASES[name]
    assert free_groups(case.channels) == case.free
    for member, fragment in case.frozen.items():
        assert fragment in reason_of(case.channels, member)
    assert case.channels.unknown == ({"riddle": 1} if name == "unknown operator" else {})


def test_every_rule_has_a_case():
    seen = {
        rule_of(op_name(node), len(node.all_input_nodes))
        for case in CASES.values()
        for node in case.trace.module.graph.nodes
        if node.op == "call_function"
    }
    assert {rule.__name__ for rule in RULES.values()} - {rule.__name__ for rule in seen} == set()


PLACES: dict[str, tuple[int, str, list[list[int]]]] = {
    # case: size of the group, member, places of every channel
    "concatenation": (6, "c.w1", [[4], [5], [6], [7], [8], [9]]),
    "padding shortcut": (4, "b.w0", [[2], [3], [4], [5]]),
    "split": (3, "a.w0", [[2], [3], [4]]),
    "glu": (4, "a.w0", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    "grouped": (2, "d.w0", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "channel shuffle": (2, "b.w1", [[0, 2, 4], [1, 3, 5]]),
    "repeat": (8, "b.w1", [[i, i + 8] for i in range(8)]),
    "repeat_interleave": (8, "b.w1", [[2 * i, 2 * i + 1] for i in range(8)]),
    "pixel shuffle": (2, "a.w0", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "im2col": (6, "b.w1", [[9 * i + k for k in range(9)] for i in range(6)]),
    "reshape that merges": (8, "b.w1", [[64 * i + k for k in range(64)] for i in range(8)]),
    "attention of one joint layer, written by hand": (
        2,
        "qkv.w0",
        [[8 * j + 4 * i + k for j in range(3) for k in range(4)] for i in range(2)],
    ),
    "gru, two layers, both ways": (6, "l.weight_hh_l0/0", [[i, i + 6, i + 12] for i in range(6)]),
    "depthwise with two filters a channel": (6, "d.w0", [[2 * i, 2 * i + 1] for i in range(6)]),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_of_a_channel(name):
    size, member, places = PLACES[name]
    free = [g for g in CASES[name].channels.groups if g.reason is None and g.size == size]
    found = [m.places.tolist() for g in free for m in g.members if short(m.parameter, m.axis) == member]
    assert [[sorted(own) for own in one] for one in found] == [places]


def test_a_tied_table_ties_what_writes_to_what_reads():
    """The head reads the channels of `inner` with the rows of the embedding: one group, all the way round."""
    assert free_groups(find_channels(traced("tied")[2])) == {"head.w1 inner.b0 inner.w0 inner.w1": 6}


@pytest.mark.parametrize("name", MODELS)
def test_every_place_of_a_parameter_is_in_a_group_or_fixed(name):
    made = traced(name)[2]
    channels = find_channels(made)
    held = {(m.parameter, m.axis): set() for g in channels.groups for m in g.members}
    for group in channels.groups:
        assert group.size == group.atom.size
        assert group.reason is None or len(group.reason) > 10
        assert len({(m.parameter, m.axis) for m in group.members}) == len(group.members)
        for member in group.members:
            assert member.places.shape[0] == group.size
            assert member.places.max() < made.graph.tensor_by_name[member.parameter].shape[member.axis]
            held[member.parameter, member.axis] |= set(member.places.reshape(-1).tolist())
    for (parameter, axis), places in held.items():
        term = channels.term(parameter, axis)
        free = set(channels.axes.kept(term, dict.fromkeys(channels.axes.atoms(term), NONE)).tolist())
        assert places | free == set(range(term.size))
    assert len({group.name for group in channels.groups}) == len(channels.groups)


@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_outputs_are_never_cut(name):
    made = traced(name)[2]
    channels = find_channels(made)
    borders = [node for node in made.module.graph.nodes if node.op == "placeholder"]
    borders += [source for node in made.module.graph.nodes if node.op == "output" for source in node.all_input_nodes]
    assert borders
    for node in borders:
        value = channels.values.get(node.name)
        for terms in [value] if isinstance(value, tuple) else value or []:
            assert all(atom.reason for term in terms for atom in channels.axes.atoms(term))


@pytest.mark.parametrize("name", MODELS)
def test_walking_twice_finds_the_same(name):
    made = traced(name)[2]
    first, second = find_channels(made), find_channels(made)
    assert [(g.name, g.size, g.reason) for g in first.groups] == [(g.name, g.size, g.reason) for g in second.groups]


@pytest.mark.parametrize("rule", [lambda call: call.every()[0][:-1], lambda call: call.need("not an argument")])
def test_a_form_that_the_rule_does_not_fit_freezes_what_reaches_it(monkeypatch, rule):
    monkeypatch.setitem(RULES, "relu", rule)
    found = find_channels(CASES["linear"].trace)
    assert found.unknown == {"relu": 1}
    reasons = {group.reason for group in found.groups}
    assert "relu is used in a form that Lissom does not know" in reasons
    assert None not in reasons


def test_no_case_is_of_an_unfit_form():
    for name in MODELS:
        reasons = [group.reason or "" for group in find_channels(traced(name)[2]).groups]
        assert not [r for r in reasons if "in a form that" in r], name
