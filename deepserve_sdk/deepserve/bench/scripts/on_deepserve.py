"""DeepServe, embedded: two pods."""

from harness import Verbs, make_array, make_bytes, read_array, read_bytes, report, same

import deepserve

app = deepserve.App("bench-calls")
noop = app.function(min_pods=2, max_pods=2, name="noop")(same)
take_array = app.function(max_pods=1, name="take_array")(read_array)
give_array = app.function(max_pods=1, name="give_array")(make_array)
take_bytes = app.function(max_pods=1, name="take_bytes")(read_bytes)
give_bytes = app.function(max_pods=1, name="give_bytes")(make_bytes)

if __name__ == "__main__":
    report(
        Verbs(
            "DeepServe",
            call=noop.remote,
            map=lambda inputs: list(noop.map(inputs)),
            take_array=take_array.remote,
            give_array=give_array.remote,
            take_bytes=take_bytes.remote,
            give_bytes=give_bytes.remote,
        )
    )
