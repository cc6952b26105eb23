"""TF1 loops (Enter, Merge, Switch, NextIteration, Exit) -> While nodes with functions.

Owns the recognition of frames. What it does not recognise stays as it is, and is refused when something needs it.
"""

from __future__ import annotations

from .graphdef import Attrs, Ref, TFFunction, TFGraph, TFNode

_ENTER, _MERGE, _NEXT = ("Enter", "RefEnter"), ("Merge", "RefMerge"), ("NextIteration", "RefNextIteration")
_SWITCH, _EXIT = ("Switch", "RefSwitch"), ("Exit", "RefExit")


class _Frame:
    def __init__(self, name: str) -> None:
        self.name = name
        self.constants: list[TFNode] = []
        # (Enter, Merge, NextIteration, Switch) of every loop variable.
        self.variables: list[tuple[TFNode, TFNode, TFNode, TFNode]] = []
        self.condition: Ref | None = None
        self.exits: dict[str, int] = {}


def rebuild_loops(graph: TFGraph, nodes: dict[str, TFNode], prefix: str = "") -> None:
    """Replace every frame of the graph's or a function's nodes by one While node; Exits become readings of it."""
    frames: dict[str, _Frame] = {}
    merges: dict[str, TFNode] = {}
    switches: dict[str, list[TFNode]] = {}
    exits: dict[str, list[TFNode]] = {}
    for node in nodes.values():
        if node.op in _MERGE:
            for ref in node.inputs:
                merges.setdefault(ref.node, node)
        elif node.op in _SWITCH and node.inputs:
            switches.setdefault(node.inputs[0].node, []).append(node)
        elif node.op in _EXIT and node.inputs:
            exits.setdefault(node.inputs[0].node, []).append(node)
    for node in nodes.values():
        if node.op not in _ENTER or not node.inputs:
            continue
        attrs = Attrs(node, graph.limits)
        frame = frames.setdefault(attrs.s("frame_name"), _Frame(attrs.s("frame_name")))
        merge = merges.get(node.name)
        if attrs.b("is_constant", False) or merge is None:
            frame.constants.append(node)
            continue
        other = next((r.node for r in merge.inputs if r.node != node.name), "")
        step = nodes.get(other)
        found = [s for s in switches.get(merge.name, []) if len(s.inputs) == 2 and _is_condition(nodes, s)]
        if step is None or step.op not in _NEXT or not step.inputs or len(found) != 1:
            if step is not None and step.op in _NEXT and step.inputs and not found:
                # A variable that is only read by the condition has no Switch; it cannot change what the body does.
                found = [TFNode(f"{merge.name}/Switch_", "Switch", (), {})]
            else:
                continue
        frame.variables.append((node, merge, step, found[0]))
        if found[0].inputs:
            frame.condition = nodes[found[0].inputs[1].node].inputs[0]
        for leave in exits.get(found[0].name, []):
            frame.exits[leave.name] = len(frame.variables) - 1
    done = [f for f in frames.values() if f.variables and f.condition is not None]
    for frame in done:
        _replace(nodes, frame, prefix)
    for frame in done:
        _functions(graph, nodes, frame, prefix)


def _is_condition(nodes: dict[str, TFNode], switch: TFNode) -> bool:
    found = nodes.get(switch.inputs[1].node)
    return found is not None and found.op == "LoopCond" and bool(found.inputs)


def _name(frame: _Frame) -> str:
    return f"{frame.name}/While_"


def _replace(nodes: dict[str, TFNode], frame: _Frame, prefix: str) -> None:
    name = _name(frame)
    inputs = [v[0].inputs[0] for v in frame.variables] + [e.inputs[0] for e in frame.constants]
    attrs = {part: {"func": {"name": f"{prefix}{name}{part}"}} for part in ("cond", "body")}
    nodes[name] = TFNode(name, "While", tuple(inputs), attrs)
    for leave, index in frame.exits.items():
        nodes[leave] = TFNode(leave, "Identity", (Ref(name, index),), nodes[leave].attrs)


def _functions(graph: TFGraph, nodes: dict[str, TFNode], frame: _Frame, prefix: str) -> None:
    assert frame.condition is not None
    constants = [e.name for e in frame.constants]
    for part, own, wanted in (
        ("cond", [v[1].name for v in frame.variables], [frame.condition]),
        ("body", [v[3].name for v in frame.variables], [v[2].inputs[0] for v in frame.variables]),
    ):
        args = [*own, *constants]
        refs = wanted if part == "cond" else [*wanted, *(Ref(n) for n in constants)]
        outputs = [f"r{i}" for i in range(len(refs))]
        function = f"{prefix}{_name(frame)}{part}"
        graph.functions[function] = TFFunction(
            function, [(a, 0) for a in args], outputs, dict(zip(outputs, refs, strict=True)),
            _needed(nodes, refs, set(args)),
        )  # fmt: skip


def _needed(nodes: dict[str, TFNode], wanted: list[Ref], args: set[str]) -> dict[str, TFNode]:
    """The nodes that tensors need by data or control, up to the arguments."""
    out: dict[str, TFNode] = {}
    stack = [r.node for r in wanted]
    while stack:
        node = nodes.get(name := stack.pop())
        if node is None or name in args or name in out:
            continue
        out[name] = node
        stack.extend(r.node for r in node.inputs)
        stack.extend(node.controls)
    return out
