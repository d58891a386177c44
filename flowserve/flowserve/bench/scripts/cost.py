"""FlowServe's cost model, fitted to batches of all shapes: how far it is off for the steps that were left out."""

from measuring import arguments, quiet_stdout, quietly, say
from on_flowserve import load_engine

SECONDS, QUICK_SECONDS = 20.0, 2.0


def main(given):
    from flowserve.calibration import calibration_steps
    from flowserve.cost_model import fit

    engine = load_engine(given, enable_prefix_caching=False, step_log=True, target_step_ms=0.0)
    seconds = QUICK_SECONDS if given.quick else SECONDS
    steps, foreign = quietly(lambda: calibration_steps(engine, seconds, seed=given.seed))
    error = fit(steps, engine.step_log.setting).error["all"]
    say(work="cost median", unit="%", value=100 * error.median, foreign=foreign)
    say(work="cost p90", unit="%", value=100 * error.p90, foreign=foreign)
    engine.close()


if __name__ == "__main__":
    quiet_stdout()
    main(arguments())
