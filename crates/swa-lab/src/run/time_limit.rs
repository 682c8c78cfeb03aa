//! A limit on the time of a command, which then ends by itself at the end of an epoch.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::train::EarlyStoppingStrategy;
use burn::train::metric::store::EventStoreClient;

/// The time that a command may take. It is counted from when the command line is read.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimit {
    began: Instant,
    minutes: f64,
}

impl TimeLimit {
    /// A limit of so many minutes from now on, as `--until-minutes` has it.
    ///
    /// # Errors
    ///
    /// If it is not a number above 0.
    pub fn parse(minutes: &str) -> Result<Self, String> {
        let minutes = minutes.parse().ok();
        let minutes = minutes.filter(|minutes: &f64| minutes.is_finite() && *minutes > 0.0);
        let minutes = minutes.ok_or("expected a number of minutes above 0, such as 30 or 7.5")?;
        Ok(Self {
            began: Instant::now(),
            minutes,
        })
    }

    /// The minutes that are left, at least 0.
    pub(crate) fn minutes_left(&self) -> f64 {
        self.seconds_left(Instant::now()) / 60.0
    }

    fn seconds_left(&self, now: Instant) -> f64 {
        let gone = now.duration_since(self.began).as_secs_f64();
        (60.0 * self.minutes - gone).max(0.0)
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} minutes", self.minutes)
    }
}

/// Ends a session before an epoch that would not fit into its time. Burn asks after each epoch's
/// checkpoint.
///
/// The next epoch is taken to last as long as the longer of the last two. Every session makes at least one: nothing is
/// known of the first.
#[derive(Debug, Clone)]
pub(super) struct EndInTime {
    limit: TimeLimit,
    /// The session's last epoch, after which it ends anyway.
    until: usize,
    epoch_began: Instant,
    last: Option<f64>,
    ended: EndedInTime,
}

/// The epoch after which a session ended to keep within its time, and the seconds that another one would have taken.
pub(super) type EndedInTime = Arc<Mutex<Option<(usize, f64)>>>;

impl EndInTime {
    pub(super) fn new(limit: TimeLimit, until: usize) -> Self {
        Self {
            limit,
            until,
            epoch_began: Instant::now(),
            last: None,
            ended: Arc::default(),
        }
    }

    /// The place where it says so if it ended the session.
    pub(super) fn ended(&self) -> EndedInTime {
        self.ended.clone()
    }

    /// Takes note of the end of an epoch, and tells whether there is no time for another one.
    fn ends_at(&mut self, epoch: usize, now: Instant) -> bool {
        let this = now.duration_since(self.epoch_began).as_secs_f64();
        let longer = this.max(self.last.unwrap_or(this));
        (self.epoch_began, self.last) = (now, Some(this));
        let ends = epoch < self.until && longer > self.limit.seconds_left(now);
        if ends {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            *ended = Some((epoch, longer));
        }
        ends
    }
}

impl EarlyStoppingStrategy for EndInTime {
    fn should_stop(&mut self, epoch: usize, _: &EventStoreClient) -> bool {
        self.ends_at(epoch, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The epochs that are made when each takes so many seconds and the limit is 60.
    fn epochs_made(seconds: &[u64]) -> usize {
        let limit = TimeLimit::parse("1").unwrap();
        let mut end = EndInTime::new(limit, seconds.len());
        end.epoch_began = limit.began;
        let mut now = limit.began;
        for (index, seconds) in seconds.iter().enumerate() {
            now += Duration::from_secs(*seconds);
            if end.ends_at(index + 1, now) {
                assert_eq!(end.ended().lock().unwrap().unwrap().0, index + 1);
                return index + 1;
            }
        }
        assert_eq!(*end.ended().lock().unwrap(), None);
        seconds.len()
    }

    #[test]
    fn a_session_ends_before_an_epoch_that_would_not_fit() {
        // Four of 13 seconds leave 8; six of 10 leave nothing, and fit.
        assert_eq!(epochs_made(&[13; 9]), 4);
        assert_eq!(epochs_made(&[10; 9]), 6);
        // The last of its epochs ends it anyway.
        assert_eq!(epochs_made(&[30, 30]), 2);
        // Nothing is known of the first one.
        assert_eq!(epochs_made(&[600, 1]), 1);
    }

    #[test]
    fn an_epoch_counts_as_long_as_the_longer_of_two() {
        // After 15, 1 and 15 seconds, 29 are left, and 14 after another 15.
        assert_eq!(epochs_made(&[15, 1, 15, 15, 1, 1]), 4);
        // The first one, in which kernels are compiled, no longer counts after the third.
        assert_eq!(epochs_made(&[25, 5, 5, 5, 5, 5, 5, 5]), 8);
    }

    #[test]
    fn a_limit_that_is_no_time_is_refused() {
        for minutes in ["0", "-1", "nan", "inf", "soon", ""] {
            assert!(TimeLimit::parse(minutes).is_err(), "{minutes}");
        }
        let limit = TimeLimit::parse("0.5").unwrap();
        let after = |seconds| limit.seconds_left(limit.began + Duration::from_secs(seconds));
        assert_eq!([0, 20, 40].map(after), [30.0, 10.0, 0.0]);
    }
}
