"""MLflow's end states for the ways in which trials and studies end."""

TRIAL_STATUS = {
    "completed": "FINISHED",
    "asha": "KILLED",
    "median": "KILLED",
    "user": "KILLED",
    "race": "KILLED",
    "time": "KILLED",
    "nan": "FAILED",
    "oom": "FAILED",
    "error": "FAILED",
}
STUDY_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
STUDY_STOP_REASON = {"finished": "completed", "interrupted": "user", "failed": "error"}
