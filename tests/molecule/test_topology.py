"""The topology-conditioned decoder: static choices depend on the graph alone and on placed atoms only."""

import numpy as np
import pytest
import torch

from structok.molecule.batch import topo_batch
from structok.molecule.conformer import prepare
from structok.molecule.graph import ATOM_FEATURES, BOND_TYPES, graph_of
from structok.molecule.topo import TopoDecoder, code_cost
from structok.molecule.topology import CONTEXT, RELATIONS, topology_of
from tests.molecule.conftest import DRUGS, embed


def graphs():
    return [graph_of(prepare(embed(s)).mol) for s in DRUGS]


def test_features_stay_in_their_classes():
    for graph in graphs():
        topology = topology_of(graph)
        assert (graph.atoms >= 0).all() and (graph.atoms < list(ATOM_FEATURES.values())).all()
        assert (graph.bond_types < BOND_TYPES).all()
        assert (topology.relations >= 0).all() and (topology.relations < list(RELATIONS.values())).all()


def test_references_and_context_are_placed_before():
    for graph in graphs():
        topology = topology_of(graph)
        place = np.arange(len(graph))[:, None] + 2
        assert (topology.refs[1:] < place[1:]).all()
        assert ((topology.context < place) | (topology.context == 0)).all()
        for row in topology.refs[1:]:
            assert len(set(row)) == 3
        for refs, context in zip(topology.refs, topology.context):
            assert not set(refs) & set(context[context > 0])


def test_sibling_fixes_the_azimuth():
    methane = graph_of(prepare(embed("C")).mol)  # H C H H H
    assert topology_of(methane).refs.tolist() == [[0, 0, 1], [2, 0, 1], [3, 2, 1], [3, 2, 4], [3, 2, 5]]


def test_linear_atoms_give_no_direction():
    # [H]C([H])([H])C#CC#N: the nitrile's carbon must look past both alkyne carbons
    graph = graph_of(prepare(embed("CC#CC#N")).mol)
    refs = topology_of(graph).refs - 2
    nitrogen = len(graph) - 1
    assert refs[nitrogen, 2] not in (nitrogen - 3, nitrogen - 4)


def test_ring_partner_is_seen():
    graph = graph_of(prepare(embed("C1CC1C2CCC2")).mol)
    topology = topology_of(graph)
    closing = [b for b in graph.bonds.tolist() if b[0] + 2 != topology.refs[b[1], 0]]
    assert len(closing) == 2
    for partner, atom in closing:
        assert partner + 2 in {*topology.refs[atom], topology.context[atom, 0]}


def test_padding_changes_nothing():
    torch.manual_seed(0)
    decoder = TopoDecoder(32, 4, 8, 8, 2)
    gs = graphs()
    ts = [topology_of(g) for g in gs]
    together = decoder.static(topo_batch(gs, ts))
    for i, (g, t) in enumerate(zip(gs, ts)):
        alone = decoder.static(topo_batch([g], [t]))
        torch.testing.assert_close(together[i, : len(g)], alone[0, : len(g)])


def test_fixed_codes_are_everywhere_the_same():
    torch.manual_seed(0)
    decoder = TopoDecoder(32, 4, 8, 8, 2)
    decoder.fixed.copy_(torch.randn(4, 3))
    table = decoder.table(torch.randn(5, 8), torch.randn(5, 3 + 3 * CONTEXT))
    assert table.shape == (5, 32, 3)
    torch.testing.assert_close(table[:, -4:], decoder.fixed.expand(5, 4, 3))


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_cost(weight):
    torch.manual_seed(0)
    table, y, length = torch.randn(4, 10, 3), torch.randn(4, 3), torch.rand(4)
    direct = (table - y[:, None]).square().sum(-1) + weight * (table.norm(dim=-1) - length[:, None]).square()
    torch.testing.assert_close(code_cost(table, y, length, weight), direct, atol=1e-5, rtol=1e-5)
    shared = code_cost(table[0], y, length, weight)
    torch.testing.assert_close(shared[0], direct[0], atol=1e-5, rtol=1e-5)
