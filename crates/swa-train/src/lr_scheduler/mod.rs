//! Learning-rate schedules for SWA, as schedulers of Burn's `Learner`.

mod paper;
mod swalr;

pub use paper::{PaperLrScheduler, PaperLrSchedulerConfig};
pub(crate) use swalr::without_swalr;
pub use swalr::{Annealing, SwaLrScheduler, SwaLrSchedulerConfig};
