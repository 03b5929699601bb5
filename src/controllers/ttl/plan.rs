//! When a finished Job's time is over.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::client::meta::timestamp;
use crate::controllers::job::plan::spec_of;

/// How long the Job may stay; `None` for one that stays, zero for one whose time is over.
pub fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = spec_of(job).ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let finished = conditions.into_iter().find(|condition| {
        condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed")
    })?;
    let since = finished.last_transition_time.as_ref().map_or(now, timestamp);
    let left = since.as_millisecond() + i64::from(seconds) * 1000 - now.as_millisecond();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_stays_for_its_time_after_it_finished() {
        let job = |ttl: Option<i32>, condition: &str| -> Job {
            serde_json::from_value(json!({"metadata": {"name": "a"},
                "spec": {"template": {}, "ttlSecondsAfterFinished": ttl},
                "status": {"conditions": [{"type": condition, "status": "True",
                    "lastTransitionTime": "1970-01-01T00:01:00Z"}]}}))
            .expect("a Job")
        };
        let at = |second| Timestamp::from_second(second).expect("a timestamp");
        assert_eq!(left(&job(None, "Complete"), at(100)), None);
        assert_eq!(left(&job(Some(50), "Suspended"), at(100)), None);
        assert_eq!(left(&job(Some(50), "Complete"), at(100)), Some(Duration::from_secs(10)));
        assert_eq!(left(&job(Some(50), "Failed"), at(110)), Some(Duration::ZERO));
        assert_eq!(left(&job(Some(0), "Failed"), at(60)), Some(Duration::ZERO));
    }
}
