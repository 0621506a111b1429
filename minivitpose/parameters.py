"""Parameters, flat as in a state dict ("a.b": x) and nested as the layers take them ({"a": {"b": x}})."""


def nest(flat):
    """{"a.b": x} -> {"a": {"b": x}}, in order."""
    tree = {}
    for name, x in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = x
    return tree


def flatten(tree, prefix=""):
    """{"a": {"b": x}} -> {"a.b": x}, in order."""
    flat = {}
    for name, x in tree.items():
        flat |= flatten(x, f"{prefix}{name}.") if isinstance(x, dict) else {f"{prefix}{name}": x}
    return flat


def cast(x, dtype):
    """Weights to the dtype of the model, counters as they are; no copy where nothing changes."""
    return x.astype(dtype, copy=False) if x.dtype.kind == "f" else x


def is_learnt(name):
    """Whether training learns it: batch norm's statistics and its counter are gathered, not learnt."""
    return not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
