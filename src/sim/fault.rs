//! What goes wrong in a simulation, and when: a file, and the seed that chooses the nodes.
//!
//! ```yaml
//! faults:
//! - {after: 2s, kind: disconnect, share: 30%}          # connections break, and are made anew
//! - {after: 4s, kind: silence, share: 5%, lasts: 60s}  # nodes neither say nor hear anything
//! - {after: 6s, kind: delete-pods, share: 10%}         # a share of the pods is deleted
//! - {after: 8s, kind: crash-server}                    # SIGKILL, and started again
//! ```
//!
//! Times count from the first pod's creation.

use std::time::Duration;

use serde::Deserialize;

use crate::base::rng::Rng;
use crate::cli::duration;

const FAULTS_MAX: usize = 1000;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Disconnect,
    Silence { lasts: Duration },
    DeletePods,
    CrashServer,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    pub after: Duration,
    pub kind: Kind,
    /// How many of the nodes or pods it meets, 0 to 1.
    pub share: f64,
}

/// All of them, in the order of their times.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FaultPlan(pub Vec<Fault>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    faults: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    after: String,
    kind: String,
    share: Option<String>,
    lasts: Option<String>,
}

impl FaultPlan {
    /// What a text says.
    ///
    /// # Errors
    /// What is wrong, with its place.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        if file.faults.len() > FAULTS_MAX {
            return Err(format!("faults: there are more than {FAULTS_MAX}"));
        }
        let mut faults = Vec::with_capacity(file.faults.len());
        for (at, written) in file.faults.iter().enumerate() {
            faults.push(fault(written).map_err(|why| format!("faults[{at}].{why}"))?);
        }
        faults.sort_by_key(|fault| fault.after);
        Ok(Self(faults))
    }
}

fn fault(written: &Written) -> Result<Fault, String> {
    let time =
        |name: &str, text: &str| duration::parse(text).map_err(|why| format!("{name}: {why}"));
    let after = time("after", &written.after)?;
    let share = match &written.share {
        None => 1.0,
        Some(text) => percent(text).ok_or_else(|| {
            format!("share: {text:?} is no percentage between 0% and 100% (write 10%)")
        })?,
    };
    let lasts = written.lasts.as_deref().map(|text| time("lasts", text)).transpose()?;
    let kind = match (written.kind.as_str(), lasts) {
        ("silence", Some(lasts)) => Kind::Silence { lasts },
        ("silence", None) => return Err("lasts: it is missing: say how long (60s)".to_owned()),
        (_, Some(_)) => return Err(format!("lasts: {} has no length", written.kind)),
        ("disconnect", None) => Kind::Disconnect,
        ("delete-pods", None) => Kind::DeletePods,
        ("crash-server", None) => Kind::CrashServer,
        (other, None) => {
            return Err(format!(
                "kind: {other:?} is none of disconnect, silence, delete-pods, crash-server"
            ));
        }
    };
    Ok(Fault { after, kind, share })
}

fn percent(text: &str) -> Option<f64> {
    let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    (0.0..=100.0).contains(&number).then_some(number / 100.0)
}

/// A share of `count` things, chosen by the seed.
pub fn choose(rng: &mut Rng, count: usize, share: f64) -> Vec<usize> {
    (0..count).filter(|_| rng.fraction() < share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::proptest;

    use super::*;

    #[test]
    fn a_plan_is_read_in_the_order_of_its_times() {
        let text = "faults:
- {after: 6s, kind: silence, share: 5%, lasts: 1m}
- {after: 2s, kind: disconnect}
";
        let plan = FaultPlan::read(text).expect("a plan");
        let silence = Kind::Silence { lasts: Duration::from_secs(60) };
        let second = Duration::from_secs(1);
        assert_eq!(
            plan.0,
            [
                Fault { after: 2 * second, kind: Kind::Disconnect, share: 1.0 },
                Fault { after: 6 * second, kind: silence, share: 0.05 },
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("faults: [{after: x, kind: disconnect}]", "faults[0].after: \"x\" is no duration"),
            ("faults: [{after: 1s, kind: fire}]", "faults[0].kind: \"fire\" is none of"),
            ("faults: [{after: 1s, kind: silence}]", "faults[0].lasts: it is missing"),
            ("faults: [{after: 1s, kind: disconnect, share: 200%}]", "faults[0].share: \"200%\""),
            ("faults: [{after: 1s, kind: disconnect, lasts: 1s}]", "faults[0].lasts: disconnect"),
            ("fault: []", "fault"),
        ] {
            let told = FaultPlan::read(text).expect_err(text);
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn a_seed_chooses_the_same_again() {
        let chosen = |seed| choose(&mut Rng::seeded(seed), 1000, 0.1);
        assert_eq!(chosen(7), chosen(7));
        assert_ne!(chosen(7), chosen(8));
        assert!((50..150).contains(&chosen(7).len()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[a-z0-9:%{}\\[\\]' \n,-]{0,80}") {
            let _ = FaultPlan::read(&text);
            let _ = FaultPlan::read(&format!("faults:\n- {{{text}}}"));
        }
    }
}
