"""SavedModels whose bytes depend on their content alone, so that equal models have equal artefact ids.

TensorFlow numbers functions and captured variables by a counter of the whole process, keeps functions in hash order and
writes a random identifier into `fingerprint.pb`. None of that means anything to who loads the model.
"""

import re
from pathlib import Path

_NUMBERED = re.compile(r"(.*_)(\d+)")
_QUOTED = re.compile(r'"([^"\s]+_\d+)"')
_CAPTURED = re.compile(r'(key: "_user_specified_name"\s+value \{\s+s: ")\d+(?=")')


def settle_saved_model(folder: Path) -> None:
    """Rewrite `saved_model.pb` with functions numbered and ordered by their creation; drop `fingerprint.pb`."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    names = {function.signature.name for graph in model.meta_graphs for function in graph.graph_def.library.function}
    numbered = {name: match for name in names if (match := _NUMBERED.fullmatch(name))}
    numbers = sorted({int(match[2]) for match in numbered.values()})
    rank = {number: place for place, number in enumerate(numbers)}
    settled = {name: f"{match[1]}{rank[int(match[2])]}" for name, match in numbered.items()}
    text = text_format.MessageToString(model)
    text = _QUOTED.sub(lambda match: f'"{settled.get(match[1], match[1])}"', text)
    text = _CAPTURED.sub(r"\g<1>captured", text)
    model = text_format.Parse(text, saved_model_pb2.SavedModel())
    for graph in model.meta_graphs:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                node.attr.pop("_gradient_op_type", None)  # numbered too, of gradients that are not exported
        functions = sorted(graph.graph_def.library.function, key=lambda function: function.signature.name)
        del graph.graph_def.library.function[:]
        graph.graph_def.library.function.extend(functions)
    file.write_bytes(model.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)
