from benchmarks.background_compile import lost_seconds


def test_lost_time_is_that_without_steps_and_that_of_slower_steps():
    epochs = [3.0, 1.5, 1.5, 1.25, 0.5]  # The step is traced in the first epoch, and compiled from the fourth on.
    assert lost_seconds(epochs, [2.0, 0.0, 0.0, 0.25, 0.0], eager=1.0) == (2.25, 1.0)
