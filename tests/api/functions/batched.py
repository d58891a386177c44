"""api.md section 1: called with one item, runs on a list."""

import deepserve

app = deepserve.App("embedding")


@app.function
@deepserve.batched(max_batch_size=64, wait_ms=5)  # called with one item, runs on a list; one bad item fails alone
def embed(texts: list[str]) -> list[list[float]]:
    if "" in texts:
        raise ValueError("nothing to embed")
    return [[float(len(text)), float(len(texts))] for text in texts]


if __name__ == "__main__":
    assert embed("here") == [4.0, 1.0]
    assert embed.remote("pod") == [3.0, 1.0]
    outputs = list(embed.map(["a", "bb", "", "ccc"], return_exceptions=True))
    assert [output[0] for output in outputs if isinstance(output, list)] == [1.0, 2.0, 3.0]
    assert isinstance(outputs[2], ValueError)
    print("done")
