"""A torch_geometric graph network; its batches are passed to the module unchanged.

Run `python examples/graph_classification.py` (requires torch_geometric). It takes seconds on a CPU.
"""

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GraphConv, global_add_pool

import torchfit
from torchfit import optimizers


class WithTargets:
    """Yields batches of graphs with their targets."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return ((batch, batch.y) for batch in self.loader)


class GraphClassifier(nn.Module):
    """Two convolutions over the edges, and a sum over the nodes of each graph."""

    def __init__(self):
        super().__init__()
        self.first, self.second = GraphConv(1, 16), GraphConv(16, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, graphs):
        """Return scores (graphs, 2)."""
        nodes = self.first(graphs.x, graphs.edge_index).relu()
        nodes = self.second(nodes, graphs.edge_index).relu()
        return self.out(global_add_pool(nodes, graphs.batch))


def make_data(graphs=128):
    """Return graphs with 6 to 9 nodes: rings (class 0) and stars (class 1)."""
    data = []
    for number in range(graphs):
        nodes = 6 + number // 2 % 4
        around = torch.arange(nodes)
        edges = torch.stack([around, around.roll(1)]) if number % 2 == 0 else torch.stack([0 * around[1:], around[1:]])
        both_ways = torch.cat([edges, edges.flip(0)], dim=1)
        features = 1 + 0.1 * torch.randn(nodes, 1)
        data.append(Data(x=features, edge_index=both_ways, y=torch.tensor([number % 2])))
    return data


def make_model():
    """Return the compiled model."""
    model = torchfit.Model(GraphClassifier(), device="cpu")
    model.compile(optimizers.Adam(0.01), nn.CrossEntropyLoss(), metrics=["accuracy"])
    return model


def main():
    """Train, and print the accuracy on held-out graphs."""
    torch.manual_seed(0)
    data, model = make_data(), make_model()
    model.fit(WithTargets(DataLoader(data[:96], batch_size=16, shuffle=True)), epochs=20, verbose=2)
    results = model.evaluate(WithTargets(DataLoader(data[96:], batch_size=16)), verbose=0, return_dict=True)
    print(f"Accuracy on held-out graphs: {results['accuracy']:.3f}")
    return results


if __name__ == "__main__":
    main()
