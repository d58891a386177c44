"""api.md section 1: classes with a lifecycle."""

import deepserve

app = deepserve.App("ranking")


def load_weights(model: str) -> int:
    return len(model)


@app.cls(scaledown_window=120)
@deepserve.concurrent(max_inputs=32)
class Ranker:
    model: str = deepserve.parameter(default="small")

    @deepserve.enter(snap=True)  # runs once in a template; later pods are forked from it
    def load(self) -> None:
        self.weights = load_weights(self.model)

    @deepserve.method()
    def score(self, q: str, doc: str) -> float:
        return float(self.weights * (len(q) + len(doc)))

    @deepserve.exit()
    def close(self) -> None: ...


if __name__ == "__main__":
    assert Ranker(model="large").score.remote("q", "d") == 10.0
    assert Ranker().score("q", "d") == 10.0
    assert Ranker(model="x").score.remote("q", "d") == 2.0
    print("done")
