"""TF1 conditionals (Switch, Merge) -> If nodes with functions.

Owns the recognition of branches by their predicate. What it does not recognise stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from .graphdef import Ref, TFFunction, TFGraph, TFNode

_MERGE, _SWITCH = ("Merge", "RefMerge"), ("Switch", "RefSwitch")
_NEXT = ("NextIteration", "RefNextIteration")
# Nodes looked at over all conditionals of a graph; one that passes this is left to selection by value.
_VISITS = 4_000_000


class _Branches:
    """One Merge: the input of each side, and the predicate."""

    def __init__(self, merge: TFNode, condition: Ref, sides: tuple[Ref, Ref]) -> None:
        self.merge, self.condition, self.sides = merge, condition, sides


class _Rebuild:
    def __init__(self, graph: TFGraph, nodes: dict[str, TFNode], prefix: str) -> None:
        self.graph, self.nodes, self.prefix, self.left = graph, nodes, prefix, _VISITS

    def run(self, outputs: Iterable[Ref]) -> None:
        merges = [
            n.name
            for n in self.nodes.values()
            if n.op in _MERGE and len(n.inputs) == 2 and not any(self._op(r.node) in _NEXT for r in n.inputs)
        ]
        if not merges:
            return
        read = [*outputs, *(r for n in self.nodes.values() for r in n.inputs)]
        indexed = {r.node for r in read if self._op(r.node) in _MERGE and self.nodes[r.node].output(r) == 1}
        ranks = self._ranks(merges)
        for rank in sorted(set(ranks.values())):
            groups: dict[Ref, list[_Branches]] = {}
            for name in merges:
                if ranks.get(name) == rank and (found := self._branches(self.nodes[name])) is not None:
                    groups.setdefault(found.condition, []).append(found)
            for condition, group in groups.items():
                self._replace(condition, group, indexed)

    def _op(self, name: str) -> str:
        node = self.nodes.get(name)
        return "" if node is None else node.op

    def _ranks(self, merges: Iterable[str]) -> dict[str, int]:
        """Merge -> how many others lie on a path into it. Conditionals of one rank do not need each other."""
        rank: dict[str, int] = {}
        chosen, open_ = set(merges), set()
        for root in chosen:
            stack = [(root, False)]
            while stack:
                name, ready = stack.pop()
                node = self.nodes.get(name)
                if node is None or (name in rank and not ready):
                    continue
                before = [r.node for r in node.inputs] + list(node.controls)
                if ready:
                    open_.discard(name)
                    rank[name] = max((rank.get(b, 0) for b in before), default=0) + (name in chosen)
                elif name not in open_:
                    open_.add(name)
                    stack.append((name, True))
                    stack.extend((b, False) for b in before if b not in rank)
        return {name: rank[name] for name in chosen if name in rank}

    def _condition(self, switch: TFNode) -> Ref:
        ref, seen = switch.inputs[1], set()
        while ref.node in self.nodes and self._op(ref.node) == "Identity" and ref.node not in seen:
            seen.add(ref.node)
            if not self.nodes[ref.node].inputs:
                break
            ref = self.nodes[ref.node].inputs[0]
        return ref

    def _frontier(self, start: Ref) -> dict[Ref, set[int]]:
        """Predicate -> sides, of the first Switch on every path back from a tensor."""
        out: dict[Ref, set[int]] = {}
        stack, seen = [start], set()
        while stack:
            ref = stack.pop()
            key = (ref.node, ref.index)
            node = self.nodes.get(ref.node)
            if node is None or key in seen:
                continue
            seen.add(key)
            self.left -= 1
            if self.left < 0:
                return {}
            if node.op in _SWITCH and len(node.inputs) == 2:
                out.setdefault(self._condition(node), set()).add(node.output(ref))
                continue
            stack.extend(node.inputs)
            stack.extend(Ref(c) for c in node.controls)
        return out

    def _branches(self, merge: TFNode) -> _Branches | None:
        a, b = (self._frontier(r) for r in merge.inputs)
        both = [p for p in a if len(a[p]) == 1 and b.get(p) == {1 - next(iter(a[p]))}]
        if not both and (not a or not b):
            # A side without any Switch is constant.
            both = [p for p, sides in (a or b).items() if len(sides) == 1]
        if len(both) != 1:
            return None
        condition = both[0]
        taken = next(iter(a[condition])) if condition in a else 1 - next(iter(b[condition]))
        first, second = merge.inputs
        return _Branches(merge, condition, (second, first) if taken else (first, second))

    def _inside(self, starts: Iterable[Ref], condition: Ref) -> set[str]:
        """The nodes behind the Switches of a condition: those that need one, by data or by control."""
        inside: set[str] = set()
        seen: set[str] = set()
        stack = [(r.node, False) for r in starts]
        while stack:
            name, ready = stack.pop()
            node = self.nodes.get(name)
            if node is None or (name in seen and not ready) or self._ends(node, condition):
                continue
            before = [r.node for r in node.inputs] + list(node.controls)
            if not ready:
                seen.add(name)
                stack.append((name, True))
                stack.extend((b, False) for b in before)
            elif any(b in inside or (b in self.nodes and self._ends(self.nodes[b], condition)) for b in before):
                inside.add(name)
        return inside

    def _ends(self, node: TFNode, condition: Ref) -> bool:
        return node.op in _SWITCH and len(node.inputs) == 2 and self._condition(node) == condition

    def _replace(self, condition: Ref, group: list[_Branches], indexed: set[str]) -> None:
        name = f"{group[0].merge.name}/If_"
        args: dict[Ref, str] = {}
        functions = []
        for side in (1, 0):
            wanted = [branches.sides[side] for branches in group]
            nodes: dict[str, TFNode] = {}
            refs = self._copied(wanted, condition, nodes, args)
            for branches in group:
                if branches.merge.name in indexed:
                    at = branches.merge.inputs.index(branches.sides[side])
                    refs.append(_number(f"{branches.merge.name}/index_", at, nodes))
            functions.append((refs, nodes))
        attrs = {}
        for which, (refs, nodes) in zip(("then_branch", "else_branch"), functions, strict=True):
            own = f"{self.prefix}{name}{which}"
            outputs = [f"r{i}" for i in range(len(refs))]
            self.graph.functions[own] = TFFunction(
                own, [(arg, 0) for arg in args.values()], outputs, dict(zip(outputs, refs, strict=True)), nodes
            )
            attrs[which] = {"func": {"name": own}}
        self.nodes[name] = TFNode(name, "If", (condition, *args), attrs)
        extra = len(group)
        for i, branches in enumerate(group):
            own = branches.merge.name
            results = [Ref(name, i)]
            if own in indexed:
                results.append(Ref(name, extra))
                extra += 1
            self.nodes[own] = TFNode(own, "IdentityN", tuple(results), {})

    def _copied(self, wanted: list[Ref], condition: Ref, into: dict[str, TFNode], args: dict[Ref, str]) -> list[Ref]:
        """The tensors inside a function: what lies behind the Switches is copied, all else becomes an argument."""
        inside = self._inside(wanted, condition)

        def inner(ref: Ref) -> Ref:
            node = self.nodes.get(ref.node)
            if node is not None and ref.node in inside:
                return ref
            if node is not None and node.op == "Const":
                into[node.name] = TFNode(node.name, node.op, (), node.attrs)
                return ref
            if node is not None and self._ends(node, condition):
                ref = node.inputs[0]
            return Ref(args.setdefault(ref, f"arg_{len(args)}"))

        for name in inside:
            node = self.nodes[name]
            controls = tuple(c for c in node.controls if c in inside)
            into[name] = TFNode(name, node.op, tuple(inner(r) for r in node.inputs), node.attrs, controls)
        return [inner(r) for r in wanted]


def _number(name: str, value: int, into: dict[str, TFNode]) -> Ref:
    tensor = {"dtype": 3, "shape": {}, "int_val": [value]}
    into[name] = TFNode(name, "Const", (), {"dtype": {"type": 3}, "value": {"tensor": tensor}})
    return Ref(name)


def rebuild_conditionals(graph: TFGraph, nodes: dict[str, TFNode], outputs: Iterable[Ref], prefix: str = "") -> None:
    """Replace the Merges of conditionals, in the nodes of the graph or of a function, by readings of If nodes."""
    _Rebuild(graph, nodes, prefix).run(outputs)


__all__ = ["rebuild_conditionals"]
