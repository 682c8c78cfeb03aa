//! Updates of which the host does not know yet whether the device took them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::kernels::Verdict;
use crate::lock::lock;

/// A verdict that all averages share which were updated together.
#[derive(Clone)]
pub(super) struct SharedVerdict(Arc<Mutex<Verdict>>);

impl SharedVerdict {
    pub(super) fn new(verdict: Verdict) -> Self {
        Self(Arc::new(Mutex::new(verdict)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Verdict> {
        lock(&self.0)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The updates of an average since its last check.
pub(super) struct Unread {
    pub(super) verdict: SharedVerdict,
    /// The number of the average's updates before the first of these.
    updates_before: usize,
    /// The verdict's updates that were of this average, by their numbers: those in between were of others alone.
    own: Vec<Range<usize>>,
}

impl Unread {
    /// None yet, under this verdict, of an average after so many updates.
    pub(super) fn new(verdict: SharedVerdict, updates_before: usize) -> Self {
        Self {
            verdict,
            updates_before,
            own: Vec::new(),
        }
    }

    /// Notes that the verdict's update with this number is of the average.
    pub(super) fn add(&mut self, number: usize) {
        match self.own.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => self.own.push(number..number + 1),
        }
    }

    /// Reads from the device whether it left out updates of the average.
    ///
    /// # Errors
    ///
    /// The message of the device that could not be read.
    pub(super) fn read(&self) -> Result<Option<LeftOut>, String> {
        let found = self.verdict.lock().read()?;
        let taken = |own: &Range<usize>| own.end.min(found.taken).saturating_sub(own.start);
        let taken: usize = self.own.iter().map(taken).sum();
        let all: usize = self.own.iter().map(Range::len).sum();
        if taken == all {
            return Ok(None);
        }
        Ok(found.not_finite.first().map(|parameter| LeftOut {
            parameter: *parameter,
            updates: self.updates_before.saturating_add(taken),
        }))
    }
}

impl Clone for Unread {
    /// The same under a verdict of its own, which updates of the other do not change.
    fn clone(&self) -> Self {
        let verdict = self.verdict.lock().clone();
        Self {
            verdict: SharedVerdict::new(verdict),
            updates_before: self.updates_before,
            own: self.own.clone(),
        }
    }
}

/// Updates that the device left out.
pub(super) struct LeftOut {
    /// The index of the first parameter that was not finite.
    pub(super) parameter: usize,
    /// The number of the average's updates before the first that was left out.
    pub(super) updates: usize,
}
