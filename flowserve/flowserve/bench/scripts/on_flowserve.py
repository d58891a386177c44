"""FlowServe, its engine stepped by hand."""

import itertools
import os
import time

from measuring import arguments, quiet_stdout, run

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `flowserve serve` does
ids = itertools.count()


def load_engine(given, **more):
    """more: of EngineConfig."""
    from flowserve import Engine, EngineConfig

    return Engine.from_folder(
        given.model,
        EngineConfig(
            quantization=None if given.precision == "fp32" else given.precision,
            cpu_backend=given.backend,
            speculative_tokens=given.speculative,
            max_model_len=256 if given.quick else 2304,
            kv_cache_bytes=2**26 if given.quick else 2**31,
            seed=0,
            **more,
        ),
    )


def served(engine):
    from flowserve import SamplingParams

    def generate(prompts, num_out):
        params = SamplingParams(temperature=0.0, max_tokens=num_out, ignore_eos=True)
        times = {f"bench {next(ids)}": [] for _ in prompts}
        for sequence_id, prompt in zip(times, prompts, strict=True):
            engine.add(sequence_id, prompt, params)
        while engine.has_work:
            for output in engine.step():
                if output.error is not None:
                    raise SystemExit(output.error)
                times[output.sequence_id] += [time.perf_counter()] * len(output.token_ids)
        return list(times.values())

    return generate, lambda prefix: generate([[*prefix, 9]], 1)


if __name__ == "__main__":
    quiet_stdout()
    given = arguments()
    run(given, lambda: served(load_engine(given)))
