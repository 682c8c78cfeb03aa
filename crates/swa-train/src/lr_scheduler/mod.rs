//! Learning-rate schedules for SWA, as schedulers of Burn's `Learner`.

mod paper;
mod swalr;

pub use paper::{PaperLrScheduler, PaperLrSchedulerConfig};
pub use swalr::{Annealing, SwaLrScheduler, SwaLrSchedulerConfig};
pub(crate) use swalr::without_swalr;
