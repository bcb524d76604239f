"""What Tune keeps of a trial that has ended."""

from ray.tune.experiment import Trial

from ddcal.study.ray_search import EndedTrialsForgotten


def test_of_an_ended_trial_tune_keeps_no_results():
    trial = Trial("ddnn", stub=True)
    trial.update_last_result({"val/ece": 0.1, "points": [{"progress": 0.5}] * 9, "trial_id": trial.trial_id})
    assert trial.metric_analysis
    EndedTrialsForgotten().on_trial_complete(iteration=1, trials=[trial], trial=trial)
    assert trial.last_result == {"done": True, "trial_id": trial.trial_id}
    assert not trial.metric_analysis and "points" not in trial.run_metadata.get_json_state()
