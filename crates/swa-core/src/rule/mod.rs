//! Averaging rules, which say how much the newest weights count.
//!
//! Every average here is the same update,
//!
//! ```text
//! average += w(n) * (current - average)
//! ```
//!
//! and a rule is the function `w` of `n`, the number of updates made before this one.

mod config;
mod equal;
mod exponential;
mod power_function;
mod warm_up;

use core::fmt::Debug;
use std::sync::Arc;

pub use config::RuleConfig;
pub use equal::EqualWeights;
pub use exponential::{Exponential, ExponentialConfig};
pub use power_function::PowerFunction;
pub use warm_up::WarmUp;

/// The weight `w(n)` of the new value in `average += w(n) * (current - average)`.
///
/// A rule is a pure function: two calls with the same `n` give the same weight, so that a resumed run
/// goes on as if it had never stopped. An [`Average`](crate::Average) does not ask for `w(0)`: its
/// first update copies, as PyTorch's does.
///
/// # Example: a rule of your own
///
/// A running mean over (about) the last `window` updates:
///
/// ```
/// use swa_core::AveragingRule;
///
/// #[derive(Debug)]
/// struct Recent {
///     window: usize,
/// }
///
/// impl AveragingRule for Recent {
///     fn weight(&self, updates: usize) -> f64 {
///         1.0 / updates.saturating_add(1).min(self.window.max(1)) as f64
///     }
/// }
///
/// assert_eq!(Recent { window: 4 }.weight(100), 0.25);
/// ```
pub trait AveragingRule: Debug + Send + Sync {
    /// The weight of the next update, in `[0, 1]`, after `updates` earlier ones, 1 or more.
    fn weight(&self, updates: usize) -> f64;

    /// The settings by which the rule can be saved, if it is one of this crate's.
    fn config(&self) -> Option<RuleConfig> {
        None
    }
}

impl<R: AveragingRule + ?Sized> AveragingRule for Arc<R> {
    fn weight(&self, updates: usize) -> f64 {
        (**self).weight(updates)
    }

    fn config(&self) -> Option<RuleConfig> {
        (**self).config()
    }
}

/// Applies a rule to scalars, by the formula at the top of this file. For tests.
#[cfg(test)]
fn average(rule: impl AveragingRule, values: &[f64]) -> f64 {
    let numbered = values.iter().enumerate();
    numbered.fold(0.0, |average, (updates, value)| {
        average + rule.weight(updates) * (value - average)
    })
}
